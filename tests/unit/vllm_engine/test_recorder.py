"""What the recorder makes of finished requests, with a scripted engine in place of vLLM."""

import asyncio
import contextlib
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from dpace_serve.config import ServeConfig
from dpace_serve.demo import bundle
from dpace_serve.drafter import checkpoint
from dpace_serve.metrics.exporter import AcceptanceMetrics
from dpace_serve.vllm_engine import recorder as recorder_module
from dpace_serve.vllm_engine.recorder import (
    AcceptanceRecorder,
    DrafterIdentity,
    start_recording,
)
from dpace_serve.vllm_engine.settlement import split_cut_step

DRAFTER = DrafterIdentity(
    name="dpace",
    revision="abc",
    arm="champion",
    method="dflash",
    block_size=8,
    num_draft_tokens=7,
)


@pytest.fixture
def recorder():
    metrics = AcceptanceMetrics(
        CollectorRegistry(),
        drafter="dpace",
        revision="abc",
        arms=["champion"],
        workloads=["json"],
        num_draft_tokens=7,
        method="dflash",
        block_size=8,
    )
    return AcceptanceRecorder(DRAFTER, metrics, ("json",))


def params(n=1, **tags):
    return SimpleNamespace(n=n, extra_args=tags or None)


def counts(accepted, drafted):
    histogram = [0] * 8
    for number in accepted:
        histogram[number] += 1
    return SimpleNamespace(
        histogram=histogram, per_step_accepted=list(accepted), per_step_drafted=list(drafted)
    )


def answer(metrics, finish_reason="length", stop_reason=None):
    return SimpleNamespace(
        finish_reason=finish_reason, stop_reason=stop_reason, spec_decode_metrics=metrics
    )


def output(*answers, finished=True):
    return SimpleNamespace(request_id="r1", finished=finished, outputs=list(answers))


def total(recorder):
    """The sums of the arm, all workloads together."""
    return recorder.snapshot(0)["drafters"][0]


def test_a_finished_request_is_counted_and_kept(recorder):
    recorder.finish(output(answer(counts([2, 0], [7, 7]))), params(dpace_workload="json"))
    record = recorder.snapshot(1)["records"][0]
    assert record["workload"] == "json"
    assert record["emitted_tokens"] == 4  # 2 accepted and 2 bonus tokens
    assert total(recorder)["accepted"] == [1, 1, 0, 0, 0, 0, 0]
    assert total(recorder)["drafted"] == [2] * 7


def test_a_cut_answer_counts_what_it_emitted_and_leaves_the_response_as_the_engine_made_it(
    recorder,
):
    metrics = counts([3, 6], [7, 7])
    split_cut_step(metrics, num_generated=7, num_emitted=2)
    recorder.finish(output(answer(metrics, finish_reason="stop")), params())
    record = recorder.snapshot(1)["records"][0]
    assert record["per_step_accepted"] == [3, 2]
    assert record["per_step_drafted"] == [7, 2]
    assert record["emitted_tokens"] == 6  # 3 accepted, a bonus token, and 2 of the cut step
    assert (record["unsettled_accepted"], record["unsettled_drafted"]) == (4, 5)
    assert metrics.per_step_accepted == [3, 6]


@pytest.mark.parametrize(
    ("finished", "sampling", "reason"),
    [
        (
            output(answer(counts([1], [7])), answer(counts([1], [7]))),
            params(n=2),
            "several_outputs",
        ),
        (output(answer(counts([1], [7]), finish_reason="abort")), params(), "aborted"),
        (output(answer(None)), params(), "no_record"),
        # A stop string is found in the API process, after the engine has counted further.
        (output(answer(counts([1], [7]), "stop", stop_reason="END")), params(), "no_record"),
        (
            output(
                answer(SimpleNamespace(histogram=[1], per_step_accepted=[], per_step_drafted=[]))
            ),
            params(),
            "no_record",
        ),
        (output(answer(counts([], []))), params(), "no_step"),
        (output(answer(counts([0, 0], [0, 0]))), params(), "no_step"),
    ],
)
def test_what_cannot_be_counted_is_counted_as_excluded(recorder, finished, sampling, reason):
    recorder.finish(finished, sampling)
    snapshot = recorder.snapshot(10)
    assert snapshot["excluded"][reason] == 1
    assert sum(snapshot["excluded"].values()) == 1
    assert snapshot["records"] == []


def test_a_stop_token_is_not_a_stop_string(recorder):
    recorder.finish(output(answer(counts([1], [7]), "stop", stop_reason=2)), params())
    assert total(recorder)["requests"] == 1


@pytest.mark.parametrize("tag", ["weather", "", 7, ["json"]])
def test_a_tag_outside_the_set_never_becomes_a_label(recorder, tag):
    recorder.finish(output(answer(counts([1], [7]))), params(dpace_workload=tag))
    snapshot = recorder.snapshot(1)
    assert snapshot["records"][0]["workload"] == "other"
    assert snapshot["unknown_workload"] == 1


def test_an_untagged_request_is_other_and_not_unknown(recorder):
    recorder.finish(output(answer(counts([1], [7]))), params())
    snapshot = recorder.snapshot(1)
    assert snapshot["records"][0]["workload"] == "other"
    assert snapshot["unknown_workload"] == 0


def test_an_output_of_another_shape_is_an_export_error_and_breaks_nothing(recorder, caplog):
    broken = SimpleNamespace(histogram=[0, 1], per_step_accepted=[1, 2, 3], per_step_drafted=[7])
    for _ in range(3):
        recorder.finish(output(answer(broken)), params())
    recorder.finish(SimpleNamespace(), params())
    assert recorder.snapshot(0)["export_errors"] == {"record": 4, "observe": 0}
    assert len(caplog.records) == 1  # said once, then only counted


def test_a_record_that_the_exporter_refuses_is_an_export_error(recorder):
    too_long = SimpleNamespace(histogram=[0] * 9 + [1], per_step_accepted=[9], per_step_drafted=[9])
    recorder.finish(output(answer(too_long)), params())
    assert recorder.snapshot(0)["export_errors"] == {"record": 0, "observe": 1}


def test_only_the_newest_records_are_kept_and_given_oldest_first(recorder):
    for number in range(300):
        finished = output(answer(counts([1], [7])))
        finished.request_id = f"r{number}"
        recorder.finish(finished, params())
    records = recorder.snapshot(256)["records"]
    assert [record["request_id"] for record in records] == [f"r{n}" for n in range(44, 300)]
    assert recorder.snapshot(2)["records"] == records[-2:]
    assert recorder.snapshot(0)["records"] == []


class ScriptedEngine:
    """Yields its outputs in order and notes whether its generator was closed."""

    def __init__(self, *outputs):
        self.outputs = outputs
        self.is_closed = False

    async def generate(self, prompt, sampling_params, request_id, *, priority=0):
        try:
            for scripted in self.outputs:
                await asyncio.sleep(0)
                yield scripted
        finally:
            self.is_closed = True


async def test_outputs_pass_through_unchanged_and_the_last_is_recorded(recorder):
    first = output(answer(None), finished=False)
    last = output(answer(counts([4], [7])))
    engine = ScriptedEngine(first, last)
    generate = recorder.recording(engine.generate)
    assert [out async for out in generate("p", params(), "r1", priority=1)] == [first, last]
    assert total(recorder)["steps"] == 1


async def test_a_client_that_leaves_is_counted_and_the_engine_told_at_once(recorder):
    engine = ScriptedEngine(output(answer(None), finished=False), output(answer(None)))
    stream = recorder.recording(engine.generate)("p", params(), "r1")
    await anext(stream)
    await stream.aclose()
    assert engine.is_closed
    assert recorder.snapshot(0)["excluded"]["aborted"] == 1


async def test_a_request_cancelled_while_it_waits_is_counted_as_aborted(recorder):
    class Stuck:
        async def generate(self, prompt, sampling_params, request_id):
            await asyncio.sleep(60)
            yield output(answer(None))

    async def consume():
        async for _ in recorder.recording(Stuck().generate)("p", params(), "r1"):
            pass

    task = asyncio.create_task(consume())
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert recorder.snapshot(0)["excluded"]["aborted"] == 1


async def test_leaving_after_the_last_output_is_no_abort(recorder):
    engine = ScriptedEngine(output(answer(counts([4], [7]))))
    stream = recorder.recording(engine.generate)("p", params(), "r1")
    await anext(stream)
    await stream.aclose()
    assert recorder.snapshot(0)["excluded"]["aborted"] == 0
    assert total(recorder)["requests"] == 1


async def test_a_request_that_the_engine_refuses_raises_as_before_and_counts_nothing(recorder):
    class Refusing:
        async def generate(self, prompt, sampling_params, request_id):
            raise ValueError("prompt too long")
            yield

    with pytest.raises(ValueError, match="prompt too long"):
        async for _ in recorder.recording(Refusing().generate)("p", params(), "r1"):
            pass
    assert sum(recorder.snapshot(0)["excluded"].values()) == 0


def engine_with(speculation):
    return SimpleNamespace(
        vllm_config=SimpleNamespace(speculative_config=speculation),
        generate=ScriptedEngine(output(answer(counts([4], [7])))).generate,
    )


def dflash():
    return SimpleNamespace(
        method="dflash", model=str(bundle.drafter_folder("dpace")), num_speculative_tokens=7
    )


async def test_under_the_engines_own_command_the_drafter_is_named_by_its_folder(monkeypatch):
    monkeypatch.setattr(recorder_module, "REGISTRY", CollectorRegistry())
    engine = engine_with(dflash())
    recording = start_recording(engine, None)
    async for _ in engine.generate("p", params(dpace_workload="json"), "r1"):
        pass
    snapshot = recording.snapshot(1)
    assert snapshot["drafter"]["name"] == "dpace"
    assert snapshot["drafter"]["revision"] == checkpoint.revision(bundle.drafter_folder("dpace"))
    assert snapshot["records"][0]["workload"] == "json"


async def test_under_dpace_serve_name_and_workloads_are_the_configured_ones(monkeypatch):
    monkeypatch.setattr(recorder_module, "REGISTRY", CollectorRegistry())
    engine = engine_with(dflash())
    config = ServeConfig(target="t", drafter_name="mine", workloads=("poems",))
    recording = start_recording(engine, config)
    async for _ in engine.generate("p", params(dpace_workload="poems"), "r1"):
        pass
    record = recording.snapshot(1)["records"][0]
    assert (record["drafter"], record["workload"]) == ("mine", "poems")


def test_nothing_is_recorded_where_nothing_is_drafted():
    assert start_recording(None, None) is None
    assert start_recording(engine_with(None), None) is None
    assert start_recording(engine_with(SimpleNamespace(method="ngram")), None) is None
