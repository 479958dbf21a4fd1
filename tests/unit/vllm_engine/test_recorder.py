"""What the recorder makes of finished requests, with a scripted engine in place of vLLM."""

import asyncio
import contextlib
from types import SimpleNamespace

import pytest

from dpace_serve.vllm_engine.settlement import split_cut_step


@pytest.fixture
def bench(make_bench):
    return make_bench(num_challengers=0)


@pytest.fixture
def recorder(bench):
    yield bench.recorder
    # However a request ended, it has left.
    assert bench.recorder._arrivals._running == {}


def params(n=1, **tags):
    return SimpleNamespace(
        n=n,
        extra_args=tags or None,
        output_kind=SimpleNamespace(name="FINAL_ONLY"),
        structured_outputs=None,
        logprob_token_ids=None,
    )


def finish(recorder, finished, sampling, request_id="r1"):
    """One request, whose engine answers with this."""

    async def run():
        generate = recorder.recording(ScriptedEngine(finished).generate, ())
        async for _ in generate("p", sampling, request_id):
            pass

    asyncio.run(run())


def counts(accepted, drafted):
    histogram = [0] * 8
    for number in accepted:
        histogram[number] += 1
    return SimpleNamespace(
        histogram=histogram, per_step_accepted=list(accepted), per_step_drafted=list(drafted)
    )


def answer(metrics, finish_reason="length", stop_reason=None, token_ids=()):
    return SimpleNamespace(
        finish_reason=finish_reason,
        stop_reason=stop_reason,
        spec_decode_metrics=metrics,
        token_ids=list(token_ids),
    )


def output(*answers, finished=True, prompt=(1, 2, 3)):
    return SimpleNamespace(
        request_id="r1", finished=finished, outputs=list(answers), prompt_token_ids=list(prompt)
    )


def lost(recorder):
    """Export errors by stage, those that happened."""
    return {stage: n for stage, n in recorder.snapshot(0)["export_errors"].items() if n}


def total(recorder):
    """The sums of the arm, all workloads together."""
    return recorder.snapshot(0)["drafters"][0]


def test_a_finished_request_is_counted_and_kept(recorder):
    finish(recorder, output(answer(counts([2, 0], [7, 7]))), params(dpace_workload="json"))
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
    finish(recorder, output(answer(metrics, finish_reason="stop")), params())
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
        (output(answer(counts([1], [7]), "stop", stop_reason="END")), params(), "stop_string"),
        (output(answer(None, "stop", stop_reason="END")), params(), "stop_string"),
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
    finish(recorder, finished, sampling)
    snapshot = recorder.snapshot(10)
    assert snapshot["excluded"][reason] == 1
    assert sum(snapshot["excluded"].values()) == 1
    assert snapshot["records"] == []


def test_a_stop_token_is_not_a_stop_string(recorder):
    finish(recorder, output(answer(counts([1], [7]), "stop", stop_reason=2)), params())
    assert total(recorder)["requests"] == 1


@pytest.mark.parametrize("tag", ["weather", "", 7, ["json"]])
def test_a_tag_outside_the_set_never_becomes_a_label(recorder, tag):
    finish(recorder, output(answer(counts([1], [7]))), params(dpace_workload=tag))
    snapshot = recorder.snapshot(1)
    assert snapshot["records"][0]["workload"] == "other"
    assert snapshot["unknown_workload"] == 1


def test_an_untagged_request_is_other_and_not_unknown(recorder):
    finish(recorder, output(answer(counts([1], [7]))), params())
    snapshot = recorder.snapshot(1)
    assert snapshot["records"][0]["workload"] == "other"
    assert snapshot["unknown_workload"] == 0


def test_an_output_of_another_shape_is_an_export_error_and_breaks_nothing(recorder, caplog):
    broken = SimpleNamespace(histogram=[0, 1], per_step_accepted=[1, 2, 3], per_step_drafted=[7])
    for _ in range(3):
        finish(recorder, output(answer(broken)), params())
    assert lost(recorder) == {"record": 3}
    assert len(caplog.records) == 1  # said once, then only counted


def test_counts_that_contradict_each_other_leave_one_excluded_record(bench, recorder):
    broken = SimpleNamespace(histogram=[0, 1], per_step_accepted=[1, 2, 3], per_step_drafted=[7])
    finish(recorder, output(answer(broken, "stop")), params(dpace_workload="json"))
    (record,) = bench.kept
    assert (record.drafter, record.arm, record.workload) == ("dpace", "champion", "json")
    assert (record.excluded, record.finish_reason, record.steps) == ("no_record", "stop", 0)
    assert recorder.snapshot(1)["excluded"]["no_record"] == 1
    assert sum(recorder.snapshot(1)["excluded"].values()) == 1
    assert bench.num_running() == 0


def test_a_record_that_the_exporter_refuses_is_an_export_error_and_kept(bench, recorder):
    too_long = SimpleNamespace(histogram=[0] * 9 + [1], per_step_accepted=[9], per_step_drafted=[9])
    finish(recorder, output(answer(too_long)), params())
    assert lost(recorder) == {"observe": 1}
    assert [record.per_step_accepted for record in bench.kept] == [(9,)]


def test_the_record_of_a_drafter_without_series_is_kept(bench, recorder):
    for number in range(20):  # nobody says that its requests still run
        bench.metrics.add_drafter(f"newer{number}", "1", 8, ["champion"])
    finish(recorder, output(answer(counts([2], [7]))), params())
    finish(recorder, output(answer(None)), params())
    assert [(record.drafter, record.accepted, record.excluded) for record in bench.kept] == [
        ("dpace", 2, None),
        ("dpace", 0, "no_record"),
    ]
    assert lost(recorder) == {"observe": 2}


def test_only_the_newest_records_are_kept_and_given_oldest_first(recorder):
    for number in range(300):
        finish(recorder, output(answer(counts([1], [7]))), params(), f"r{number}")
    records = recorder.snapshot(256, shows_ids=True)["records"]
    assert [record["request_id"] for record in records] == [f"r{n}" for n in range(44, 300)]
    assert recorder.snapshot(2, shows_ids=True)["records"] == records[-2:]
    assert recorder.snapshot(0)["records"] == []


def test_every_record_is_followed_counted_or_not(recorder):
    finish(recorder, output(answer(counts([2, 0], [7, 7]))), params(), "chatcmpl-1")
    finish(recorder, output(answer(None)), params(), "chatcmpl-2")
    answers = recorder.records_after(0, 256, shows_ids=True)
    found = [(row["sequence"], row["request_id"], row["excluded"]) for row in answers["records"]]
    assert found == [(1, "chatcmpl-1", None), (2, "chatcmpl-2", "no_record")]
    assert recorder.records_after(1, 256, shows_ids=False)["boot"] == answers["boot"]


def test_two_starts_of_a_server_can_be_told_apart(make_bench):
    boots = {
        make_bench(num_challengers=0).recorder.records_after(0, 0, shows_ids=False)["boot"]
        for _ in range(2)
    }
    assert len(boots) == 2


class EngineBroken(Exception):  # noqa: N818  (the engine's own names end otherwise too)
    """An error of the engine itself."""


async def test_an_engine_that_dies_is_counted_as_aborted_and_raises_as_before(recorder):
    class Dying:
        async def generate(self, prompt, sampling_params, request_id):
            yield output(answer(None), finished=False)
            raise EngineBroken

    with pytest.raises(EngineBroken):
        async for _ in recorder.recording(Dying().generate, (EngineBroken,))("p", params(), "r1"):
            pass
    assert recorder.snapshot(0)["excluded"]["aborted"] == 1


def test_any_error_of_the_statistics_is_counted_and_breaks_no_answer(bench, recorder):
    class Odd:
        @property
        def spec_decode_metrics(self):
            raise RuntimeError

    finish(recorder, output(Odd()), params())
    assert recorder.snapshot(0)["export_errors"]["record"] == 1
    assert [(record.excluded, record.finish_reason) for record in bench.kept] == [
        ("no_record", "unknown")
    ]


@pytest.mark.parametrize(("reason", "n"), [("stop", 1), ("abort", 1), ("length", 2)])
def test_an_excluded_answer_leaves_the_response_as_the_engine_made_it(recorder, reason, n):
    metrics = counts([3, 6], [7, 7])
    split_cut_step(metrics, num_generated=7, num_emitted=2)
    finish(recorder, output(answer(metrics, reason, stop_reason="END")), params(n=n))
    assert metrics.per_step_accepted == [3, 6]
    assert metrics.per_step_drafted == [7, 7]


async def test_several_answers_that_end_one_by_one_are_left_as_the_engine_made_them(recorder):
    metrics = [counts([3, 6], [7, 7]), counts([6], [7])]
    for each in metrics:
        split_cut_step(each, num_generated=7, num_emitted=2)
    ends = [output(answer(metrics[0]), finished=False), output(answer(metrics[1]))]
    generate = recorder.recording(ScriptedEngine(*ends).generate, ())
    assert [out async for out in generate("p", params(n=2), "r1")] == ends
    assert [each.per_step_accepted for each in metrics] == [[3, 6], [6]]


def test_an_unknown_tag_of_a_lost_record_is_not_counted(recorder):
    too_long = SimpleNamespace(histogram=[0] * 9 + [1], per_step_accepted=[9], per_step_drafted=[9])
    finish(recorder, output(answer(too_long)), params(dpace_workload="weather"))
    finish(recorder, output(answer(counts([0], [0]))), params(dpace_workload="weather"))
    assert recorder.snapshot(0)["unknown_workload"] == 0


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
    generate = recorder.recording(engine.generate, (EngineBroken,))
    assert [out async for out in generate("p", params(), "r1", priority=1)] == [first, last]
    assert total(recorder)["steps"] == 1


async def test_a_client_that_leaves_is_counted_and_the_engine_told_at_once(recorder):
    engine = ScriptedEngine(output(answer(None), finished=False), output(answer(None)))
    stream = recorder.recording(engine.generate, (EngineBroken,))("p", params(), "r1")
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
        async for _ in recorder.recording(Stuck().generate, (EngineBroken,))("p", params(), "r1"):
            pass

    task = asyncio.create_task(consume())
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert recorder.snapshot(0)["excluded"]["aborted"] == 1


async def test_leaving_after_the_last_output_is_no_abort(recorder):
    engine = ScriptedEngine(output(answer(counts([4], [7]))))
    stream = recorder.recording(engine.generate, (EngineBroken,))("p", params(), "r1")
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
        async for _ in recorder.recording(Refusing().generate, (EngineBroken,))(
            "p", params(), "r1"
        ):
            pass
    assert sum(recorder.snapshot(0)["excluded"].values()) == 0
