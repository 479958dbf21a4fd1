"""What a recorder is started with, under `dpace serve` and under the engine's own command."""

import asyncio
import shutil
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from dpace_serve.demo import bundle
from dpace_serve.drafter import checkpoint
from dpace_serve.live.admission import DrafterRequest
from dpace_serve.metrics.drafters import MAX_DRAFTERS
from dpace_serve.serve_config import ServeConfig
from dpace_serve.vllm_engine import recording as recording_module
from dpace_serve.vllm_engine.recording import start_recording


async def answer_once(prompt, sampling_params, request_id):
    """An engine's `generate`: one step, 4 of 7 draft tokens accepted."""
    counts = SimpleNamespace(histogram=[0] * 4 + [1], per_step_accepted=[4], per_step_drafted=[7])
    answer = SimpleNamespace(
        finish_reason="length", stop_reason=None, spec_decode_metrics=counts, token_ids=[1, 2]
    )
    yield SimpleNamespace(
        request_id=request_id, finished=True, outputs=[answer], prompt_token_ids=[3]
    )


def params(**tags):
    return SimpleNamespace(
        n=1,
        extra_args=tags,
        output_kind=SimpleNamespace(name="FINAL_ONLY"),
        structured_outputs=None,
        logprob_token_ids=None,
    )


def engine_with(speculation):
    return SimpleNamespace(
        vllm_config=SimpleNamespace(
            speculative_config=speculation,
            model_config=SimpleNamespace(model=str(bundle.target_folder())),
        ),
        generate=answer_once,
        shutdown=lambda timeout=None: None,
    )


def dflash():
    return SimpleNamespace(
        method="dflash", model=str(bundle.drafter_folder("dpace")), num_speculative_tokens=7
    )


async def test_under_the_engines_own_command_the_drafter_is_named_by_its_folder(monkeypatch):
    monkeypatch.setattr(recording_module, "REGISTRY", CollectorRegistry())
    engine = engine_with(dflash())
    recording = start_recording(engine, None, ())
    async for _ in engine.generate("p", params(dpace_workload="json"), "r1"):
        pass
    snapshot = recording.recorder.snapshot(1)
    assert snapshot["drafter"]["name"] == "dpace"
    assert snapshot["drafter"]["revision"] == checkpoint.revision(bundle.drafter_folder("dpace"))
    assert snapshot["records"][0]["workload"] == "json"


async def test_under_dpace_serve_name_and_workloads_are_the_configured_ones(monkeypatch):
    monkeypatch.setattr(recording_module, "REGISTRY", CollectorRegistry())
    engine = engine_with(dflash())
    config = ServeConfig(target="t", drafter_name="mine", workloads=("poems",))
    recording = start_recording(engine, config, ())
    async for _ in engine.generate("p", params(dpace_workload="poems"), "r1"):
        pass
    record = recording.recorder.snapshot(1)["records"][0]
    assert (record["drafter"], record["workload"]) == ("mine", "poems")


def test_an_engine_without_statistics_is_recorded_and_its_steps_are_not_timed(monkeypatch, caplog):
    monkeypatch.setattr(recording_module, "REGISTRY", CollectorRegistry())
    engine = engine_with(dflash())
    engine.logger_manager = None  # vLLM under --disable-log-stats
    recording = start_recording(engine, None, ())
    assert "steps are not timed" in caplog.text
    assert recording.recorder.snapshot(0)["speed"] is None


def test_an_engine_without_tracing_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(recording_module, "REGISTRY", CollectorRegistry())
    engine = engine_with(dflash())
    do_tracing = object()
    engine.output_processor = SimpleNamespace(tracing_enabled=False, do_tracing=do_tracing)
    start_recording(engine, None, ())
    assert engine.output_processor.do_tracing is do_tracing


def test_nothing_is_recorded_where_nothing_is_drafted():
    assert start_recording(None, None, ()) is None
    assert start_recording(engine_with(None), None, ()) is None
    assert start_recording(engine_with(SimpleNamespace(method="ngram")), None, ()) is None


def salt_of_draws(monkeypatch, **settings):
    monkeypatch.setattr(recording_module, "REGISTRY", CollectorRegistry())
    recording = start_recording(engine_with(dflash()), ServeConfig(target="t", **settings), ())
    return recording.operations.drafters(shows_salt=True)["draw_salt"]


def test_each_start_draws_with_a_salt_of_its_own_unless_one_is_configured(monkeypatch):
    first, second = salt_of_draws(monkeypatch), salt_of_draws(monkeypatch)
    assert first != second
    assert min(len(first), len(second)) >= 32
    assert salt_of_draws(monkeypatch, draw_salt="the-same-on-every-replica") == (
        "the-same-on-every-replica"
    )


@pytest.mark.parametrize(
    "salt", ["", "x" * 15, "x" * 65, "with a blank in it", "ü" * 20, "x" * 20 + "\n"]
)
def test_a_salt_that_is_short_or_no_word_is_refused(salt):
    with pytest.raises(ValidationError, match="draw_salt"):
        ServeConfig(target="t", draw_salt=salt)


def test_a_configured_salt_is_not_shown_with_the_settings():
    assert "secret" not in repr(ServeConfig(target="t", draw_salt="secret-secret-secret"))


async def test_a_request_that_outlives_many_swaps_is_counted_for_the_drafter_it_began_with(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(recording_module, "REGISTRY", CollectorRegistry())
    names = [f"swapped{number}" for number in range(MAX_DRAFTERS + 1)]
    for name in names:
        shutil.copytree(bundle.drafter_folder("dpace"), tmp_path / name)
    engine = engine_with(dflash())
    may_answer = asyncio.Event()

    async def answer_late(prompt, sampling_params, request_id):
        await may_answer.wait()
        async for output in answer_once(prompt, sampling_params, request_id):
            yield output

    async def load(method, args=()):
        return [""] if method == "dpace_drafter_verdict" else [(0.0, "")]

    engine.generate, engine.collective_rpc = answer_late, load
    config = ServeConfig(
        target=str(bundle.target_folder()),
        drafter=bundle.drafter_folder("dpace"),
        drafter_root=tmp_path,
        spare_drafter_slots=2,
    )
    recording = start_recording(engine, config, ())

    async def ask():
        async for _ in engine.generate("p", params(), "r1"):
            pass

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)
    for name in names:
        await recording.operations.swap(DrafterRequest(folder=name))
    may_answer.set()
    await asking
    snapshot = recording.recorder.snapshot(1)
    (record,) = snapshot["records"]
    assert (record["drafter"], record["steps"]) == ("dpace", 1)
    assert snapshot["drafter"]["name"] == names[-1]
    assert not any(snapshot["export_errors"].values())
