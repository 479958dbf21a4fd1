"""Several drafters in one engine: each request gets the drafts of its own, and shadows change none.

One engine hosts the D-PACE drafter twice and the DFlash drafter once. The second D-PACE drafter
has weights, keys and values of its own, so what it drafts as a shadow must be what the first one
drafted when it served.
"""

import contextlib
import hashlib
import os
import shutil
import threading
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from dpace_serve.acceptance.last_step import settle_last_step
from dpace_serve.acceptance.shadow import ShadowDraft, settle_drafts
from dpace_serve.demo import bundle
from dpace_serve.drafter import checkpoint, content
from dpace_serve.vllm_engine.packed_drafts import unpacked

pytestmark = [pytest.mark.engine]

SERVED, TWIN, OTHER = 0, 1, 2
MAX_TOKENS = 64


@pytest.fixture(scope="session")
def engine(engine_with):
    """Slots: the D-PACE drafter, itself again, the DFlash drafter.

    An engine that is dropped takes the process's parallel groups with it, so it lives to the end.
    """
    return engine_with(others=["dpace", "dflash"])


@pytest.fixture(scope="session")
def answer(engine):
    """Answer prompts, each bound as told; returns the engine's outputs in order."""

    def ask(prompts, bindings, **sampling):
        from vllm import SamplingParams

        params = [
            SamplingParams(
                max_tokens=MAX_TOKENS,
                seed=index,
                extra_args=None if binding is None else {"dpace": [index, *binding]},
                **sampling,
            )
            for index, binding in enumerate(bindings)
        ]
        tokens = [{"prompt_token_ids": prompt} for prompt in prompts]
        return engine.generate(tokens, params, use_tqdm=False)

    return ask


@pytest.fixture(scope="session")
def drafts_of(engine):
    """What shadows drafted for these requests, in the answers' own positions."""

    def take(outputs, slot):
        keys = list(range(len(outputs)))
        ((packed, left),) = engine.collective_rpc("dpace_take_drafts", args=(keys,))
        assert left == []
        kept = {key: unpacked(drafts) for key, drafts in packed.items()}
        return {
            key: [
                ShadowDraft(position - len(outputs[key].prompt_token_ids), tuple(tokens))
                for position, tokens in by_slot.get(slot, ())
            ]
            for key, by_slot in kept.items()
        }

    return take


@contextlib.contextmanager
def counting_rows(engine, slot):
    """Tokens that a slot's drafter runs on: those of its blocks, and those it reads before."""
    executor = engine.llm_engine.engine_core.engine_core.model_executor
    model = executor.driver_worker.worker.model_runner.drafter.slots[slot].model
    counted = Counter()
    read = model.precompute_and_store_context_kv

    def count_block(module, args, kwargs):
        counted["block"] += kwargs["input_ids"].shape[0]

    def count_read(states, *args, **kwargs):
        counted["read"] += states.shape[0]
        return read(states, *args, **kwargs)

    model.precompute_and_store_context_kv = count_read
    hook = model.register_forward_pre_hook(count_block, with_kwargs=True)
    try:
        yield counted
    finally:
        hook.remove()
        del model.precompute_and_store_context_kv


def opened(engine, folder, revision):
    """What the check of a drafter's files comes to."""
    engine.collective_rpc("dpace_open_drafter", args=(str(folder), revision))
    for _ in range(1000):
        (verdict,) = engine.collective_rpc("dpace_drafter_verdict")
        if verdict is not None:
            return verdict
        time.sleep(0.01)
    return pytest.fail("the files are never checked")


def load(engine, slot, folder, revision):
    """Seconds and why it is refused, of a drafter that is opened and then loaded."""
    opened(engine, folder, revision)
    (answer,) = engine.collective_rpc("dpace_load_drafter", args=(slot, str(folder), revision))
    return answer


def tokens_of(outputs):
    return [tuple(output.outputs[0].token_ids) for output in outputs]


def live_steps(output):
    """Accepted and drafted of each step, the last one cut to the answer's end."""
    from dpace_serve.vllm_engine.settlement import join_cut_step

    counts = output.outputs[0].spec_decode_metrics
    emitted = join_cut_step(counts)
    settled = settle_last_step(counts.per_step_accepted, counts.per_step_drafted, emitted)
    return settled.per_step_accepted, settled.per_step_drafted


def shadow_steps(output, drafts):
    steps = settle_drafts(list(output.outputs[0].token_ids), drafts_before_the_end(output, drafts))
    return steps.per_step_accepted, steps.per_step_drafted


def drafts_before_the_end(output, drafts):
    return [draft for draft in drafts if draft.anchor < len(output.outputs[0].token_ids)]


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 1.0}])
def test_a_drafter_that_shadows_itself_is_accepted_as_it_is_live(
    answer, drafts_of, prompts, sampling
):
    outputs = answer(prompts, [(SERVED, TWIN)] * len(prompts), **sampling)
    drafts = drafts_of(outputs, TWIN)
    num_steps = 0
    for key, output in enumerate(outputs):
        live = live_steps(output)
        assert shadow_steps(output, drafts[key]) == live
        num_steps += len(live[0])
    assert num_steps > 500


def test_a_shadow_of_some_rows_only_drafts_the_same(answer, drafts_of, prompts):
    bindings = [(SERVED, TWIN) if row % 3 else (SERVED,) for row in range(len(prompts))]
    outputs = answer(prompts, bindings, temperature=0.0)
    drafts = drafts_of(outputs, TWIN)
    assert sorted(drafts) == [row for row in range(len(prompts)) if row % 3]
    for key in drafts:
        assert shadow_steps(outputs[key], drafts[key]) == live_steps(outputs[key])


@pytest.mark.parametrize("every", [1, 3, None], ids=["all rows", "some rows", "no row"])
def test_a_challenger_runs_on_the_rows_that_it_shadows_only(
    engine, answer, drafts_of, prompts, observing, every
):
    is_shadowed = [every is not None and row % every == 0 for row in range(len(prompts))]
    bindings = [(SERVED, OTHER) if shadowed else (SERVED,) for shadowed in is_shadowed]
    blocks, read = Counter(), Counter()

    def note(step):
        names = [name.split("-")[0] for name in step.request_ids]
        blocks.update(dict.fromkeys(names, step.draft_tokens.shape[1] + 1))
        read.update(dict(zip(names, step.tap_starts.diff().tolist(), strict=True)))

    with observing(engine, note), counting_rows(engine, OTHER) as counted:
        outputs = answer(prompts, bindings, temperature=0.0)
    drafts_of(outputs, OTHER)
    names = [
        output.request_id for output, is_one in zip(outputs, is_shadowed, strict=True) if is_one
    ]
    assert counted["block"] == sum(blocks[name] for name in names)
    assert counted["read"] == sum(read[name] for name in names)
    assert bool(counted["block"]) == (every is not None)


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 1.0}])
def test_shadows_change_no_answer_and_no_step(answer, drafts_of, prompts, sampling):
    plain = answer(prompts, [None] * len(prompts), **sampling)
    shadowed = answer(prompts, [(SERVED, TWIN, OTHER)] * len(prompts), **sampling)
    drafts_of(shadowed, OTHER)
    assert tokens_of(shadowed) == tokens_of(plain)
    assert list(map(live_steps, shadowed)) == list(map(live_steps, plain))


def test_requests_of_a_mixed_batch_step_as_with_their_drafter_alone(answer, prompts):
    alone = {
        slot: list(map(live_steps, answer(prompts, [(slot,)] * len(prompts), temperature=0.0)))
        for slot in (SERVED, OTHER)
    }
    assert alone[SERVED] != alone[OTHER]
    for first, second in ((SERVED, OTHER), (OTHER, SERVED)):
        slots = [second if row % 2 else first for row in range(len(prompts))]
        mixed = answer(prompts, [(slot,) for slot in slots], temperature=0.0)
        assert list(map(live_steps, mixed)) == [alone[slot][row] for row, slot in enumerate(slots)]


def test_a_drafter_in_another_slot_steps_as_in_an_engine_of_its_own(
    answer, prompts, speculative_engine
):
    from vllm import SamplingParams

    given = [{"prompt_token_ids": prompt} for prompt in prompts]
    params = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)
    alone = speculative_engine.generate(given, params, use_tqdm=False)
    hosted = answer(prompts, [(TWIN,)] * len(prompts), temperature=0.0)
    assert tokens_of(hosted) == tokens_of(alone)
    assert list(map(live_steps, hosted)) == list(map(live_steps, alone))


def test_the_cost_of_a_shadow_is_measured_on_whole_batches_of_equal_steps(engine, prompts):
    from dpace_serve.vllm_engine.shadow_cost import StepSettings, measure_shadow_cost

    settings = StepSettings(batch_sizes=(1, 4), rounds=2, max_new_tokens=32)
    rows = measure_shadow_cost(engine, prompts, settings)
    assert [(row.batch_size, row.shadow_share) for row in rows] == [
        (1, 1.0), (1, 0.5), (4, 1.0), (4, 0.5)
    ]  # fmt: skip
    # Answers do not depend on shadows, so nor does the number of steps: 4 to 31 in each batch.
    assert rows[0].num_steps == rows[1].num_steps
    assert rows[2].num_steps == rows[3].num_steps
    for row in rows:
        assert 2 * 2 * 3 <= row.num_steps <= 2 * 2 * 31
        assert row.ratio_low <= row.ratio <= row.ratio_high
        assert row.cpu_ratio_low <= row.cpu_ratio <= row.cpu_ratio_high
        assert row.plain_ms > 0
    assert engine.collective_rpc("dpace_take_drafts", args=(list(range(1, 200)),)) == [({}, [])]


def test_a_reloaded_slot_drafts_with_the_new_drafter(engine, answer, prompts):
    before = {
        slot: list(map(live_steps, answer(prompts, [(slot,)] * len(prompts), temperature=0.0)))
        for slot in (TWIN, OTHER)
    }
    folders = {TWIN: bundle.drafter_folder("dflash"), OTHER: bundle.drafter_folder("dpace")}
    for slot, folder in folders.items():
        seconds, problem = load(engine, slot, folder, checkpoint.revision(folder))
        assert problem == ""
        assert seconds > 0
    for slot, former in ((TWIN, OTHER), (OTHER, TWIN)):
        outputs = answer(prompts, [(slot,)] * len(prompts), temperature=0.0)
        assert list(map(live_steps, outputs)) == before[former]


def test_a_slot_keeps_its_weights_where_the_files_are_not_those_that_were_checked(
    engine, answer, prompts
):
    before = answer(prompts[:2], [(TWIN,)] * 2, temperature=0.0)
    folder = bundle.drafter_folder("dpace")
    other = checkpoint.revision(bundle.drafter_folder("dflash"))
    assert f"revision must be {other}" in opened(engine, folder, other)
    _, problem = load(engine, TWIN, folder, other)
    assert "must be opened and checked before it is loaded" in problem
    after = answer(prompts[:2], [(TWIN,)] * 2, temperature=0.0)
    assert list(map(live_steps, after)) == list(map(live_steps, before))


def test_a_slot_keeps_its_weights_where_files_are_written_between_their_check_and_the_load(
    engine, answer, prompts, tmp_path
):
    before = answer(prompts[:2], [(TWIN,)] * 2, temperature=0.0)
    folder = shutil.copytree(bundle.drafter_folder("dpace"), tmp_path / "dpace")
    revision = checkpoint.revision(folder)
    assert opened(engine, folder, revision) == ""
    with (folder / "model.safetensors").open("r+b") as weights:
        weights.seek(-1000, os.SEEK_END)
        weights.write(bytes(1000))
    ((_, problem),) = engine.collective_rpc(
        "dpace_load_drafter", args=(TWIN, str(folder), revision)
    )
    assert "model.safetensors did" in problem
    after = answer(prompts[:2], [(TWIN,)] * 2, temperature=0.0)
    assert list(map(live_steps, after)) == list(map(live_steps, before))


def test_the_engine_answers_while_a_drafter_is_hashed(engine, answer, prompts, monkeypatch):
    folder = bundle.drafter_folder("dpace")
    revision = checkpoint.revision(folder)
    may_hash = threading.Event()

    def sha256():
        assert may_hash.wait(300)
        return hashlib.sha256()

    monkeypatch.setattr(content, "hashlib", SimpleNamespace(sha256=sha256))
    engine.collective_rpc("dpace_open_drafter", args=(str(folder), revision))
    assert len(tokens_of(answer(prompts[:2], [(SERVED,)] * 2, temperature=0.0))) == 2
    assert engine.collective_rpc("dpace_drafter_verdict") == [None]
    may_hash.set()
    assert load(engine, TWIN, folder, revision)[1] == ""


def test_a_folder_that_is_replaced_after_its_check_is_loaded_as_it_was(
    engine, answer, prompts, tmp_path
):
    expected = answer(prompts[:2], [(SERVED,)] * 2, temperature=0.0)
    folder = shutil.copytree(bundle.drafter_folder("dpace"), tmp_path / "dpace")
    revision = checkpoint.revision(folder)
    assert opened(engine, folder, revision) == ""
    folder.rename(tmp_path / "before")
    shutil.copytree(bundle.drafter_folder("dflash"), folder)
    ((_, problem),) = engine.collective_rpc(
        "dpace_load_drafter", args=(TWIN, str(folder), revision)
    )
    assert problem == ""
    after = answer(prompts[:2], [(TWIN,)] * 2, temperature=0.0)
    assert list(map(live_steps, after)) == list(map(live_steps, expected))
