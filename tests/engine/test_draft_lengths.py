"""Draft lengths that change while requests run: same answers, same drafts, right denominators."""

import contextlib
import copy
from collections import Counter

import pytest

from dpace_serve.acceptance.counts import AcceptanceCounts
from dpace_serve.acceptance.last_step import settle_last_step
from dpace_serve.demo import bundle
from dpace_serve.vllm_engine.settlement import join_cut_step

pytestmark = [pytest.mark.engine, pytest.mark.slow]

MAX_NUM_SEQS = 8
NUM_DRAFT_TOKENS = 7
SCHEDULE = ((1, 1, 7), (2, 3, 4), (4, 8, 0))


@pytest.fixture(scope="session")
def engines(engine_environment):
    """Engines that live as long as the session: one that ends takes the others' groups along."""
    return {}


@pytest.fixture(scope="module", params=[True, False], ids=["asynchronous", "synchronous"])
def engine(request, engines):
    if request.param not in engines:
        engines[request.param] = _engine(async_scheduling=request.param)
    return engines[request.param]


@pytest.fixture(scope="module")
def lengths(engine):
    from dpace_serve.vllm_engine.draft_lengths import DraftLengths

    return DraftLengths(engine.llm_engine)


@pytest.fixture(scope="module")
def plain_answers(plain_engine, prompts):
    """The target's own answers."""
    return [tuple(answer.token_ids) for answer in generate(plain_engine, prompts[:8])]


@pytest.fixture(scope="module")
def answers(engine, lengths, prompts):
    """Answers to prompts that leave the batch one by one, by the name of the table."""
    found = {}
    tables = {"schedule": SCHEDULE} | {k: ((1, 1, k),) for k in (0, 1, 4, 7)}
    for name, ranges in tables.items():
        lengths.set(ranges)
        found[name] = generate(engine, prompts[:8])
    return found


@pytest.mark.parametrize("name", ["schedule", 0, 1, 4, 7])
def test_answers_do_not_depend_on_the_length(answers, plain_answers, name):
    assert [tuple(answer.token_ids) for answer in answers[name]] == plain_answers


@pytest.mark.parametrize("length", [0, 1, 4, 7])
def test_a_constant_length_is_what_every_step_verifies(answers, length):
    for answer in answers[length]:
        assert set(_drafted(answer)) <= {length}


def test_the_schedule_drafts_by_batch_size_as_the_batch_shrinks(answers):
    drafted = [_drafted(answer) for answer in answers["schedule"]]
    assert {length for steps in drafted for length in steps} == {4, 7}
    # Nothing is drafted in a batch of four and more; then four tokens, then seven, never back.
    longest = max(drafted, key=len)
    assert longest == sorted(longest)


def test_a_drafter_that_idled_drafts_what_one_drafts_that_just_read_the_same_text(
    engine, lengths, prompts, observing
):
    idle_steps = 10
    lengths.set(((1, 1, 0),))
    ask(engine, prompts[0], max_tokens=32)
    for _ in range(idle_steps):
        engine.llm_engine.step()
    lengths.set(((1, 1, NUM_DRAFT_TOKENS),))
    after_idling = []
    with observing(engine, after_idling.append):
        answer = finish(engine)
    read = []
    with observing(engine, read.append):
        ask(engine, prompts[0] + list(answer.token_ids[:idle_steps]), max_tokens=8)
        finish(engine)
    assert after_idling[0].anchors.tolist() == read[0].anchors.tolist()
    assert after_idling[0].anchors.tolist() == [answer.token_ids[idle_steps]]
    assert after_idling[0].draft_tokens.tolist() == read[0].draft_tokens.tolist()


@pytest.mark.parametrize("num_tokens", [1, 32], ids=["first token", "steps"])
def test_with_length_0_the_drafter_reads_every_token_and_computes_no_block(
    engine, lengths, prompts, num_tokens
):
    lengths.set(((1, 1, 0),))
    with counting_tokens(engine) as counted:
        ask(engine, prompts[0], max_tokens=num_tokens)
        answer = finish(engine)
    # The last token of an answer is never read; an asynchronous engine may begin one step more.
    assert 0 <= counted["read"] - (len(prompts[0]) + len(answer.token_ids) - 1) <= 1
    assert counted["block"] == 0
    lengths.set(((1, 1, NUM_DRAFT_TOKENS),))
    with counting_tokens(engine) as counted:
        ask(engine, prompts[0], max_tokens=8)
        finish(engine)
    assert counted["block"] >= 1 + NUM_DRAFT_TOKENS


def test_a_drafter_that_idles_after_rejected_drafts_has_read_none_of_them(
    engine, lengths, prompts, observing
):
    """It drafts, idles, and drafts again what one drafts that just read the same text."""
    lengths.set(((1, 1, NUM_DRAFT_TOKENS),))
    ask(engine, prompts[0], max_tokens=64)
    for _ in range(5):
        engine.llm_engine.step()
    lengths.set(((1, 1, 0),))
    for _ in range(6):
        engine.llm_engine.step()
    lengths.set(((1, 1, NUM_DRAFT_TOKENS),))
    after_idling = []
    proposer = proposer_of(engine)
    with observing(engine, lambda step: after_idling.append((step, int(proposer.positions[0])))):
        answer = finish(engine)
    step, position = after_idling[0]
    num_read = position - len(prompts[0])
    assert 6 < num_read < len(answer.token_ids)
    read = []
    with observing(engine, read.append):
        ask(engine, prompts[0] + list(answer.token_ids[:num_read]), max_tokens=8)
        finish(engine)
    rejected = [length - taken for taken, length in settled_steps(answer)]
    assert any(rejected)
    assert step.anchors.tolist() == read[0].anchors.tolist() == [answer.token_ids[num_read]]
    assert step.draft_tokens.tolist() == read[0].draft_tokens.tolist()


@pytest.mark.parametrize("name", ["schedule", 1, 4, 7])
def test_drafted_steps_and_those_without_drafts_make_up_the_answer(answers, name):
    num_undrafted = 0
    for answer in answers[name]:
        has_steps = sum(answer.spec_decode_metrics.histogram) > 0
        num_emitted = _settled(answer).emitted_tokens if has_steps else 0
        num_undrafted += len(answer.token_ids) - 1 - num_emitted
    assert (num_undrafted > 0) == (name == "schedule")


def test_positions_past_a_short_draft_are_not_counted_as_rejected(answers):
    settled = [_settled(answer) for answer in answers["schedule"] if _drafted(answer)]
    counts = sum(
        (
            AcceptanceCounts.from_steps(
                one.per_step_accepted, one.per_step_drafted, NUM_DRAFT_TOKENS, one.emitted_tokens
            )
            for one in settled
        ),
        AcceptanceCounts.zero(NUM_DRAFT_TOKENS),
    )
    lengths = [length for one in settled for length in one.per_step_drafted]
    assert counts.drafted[0] == len(lengths)
    assert counts.drafted[4] == sum(length >= 5 for length in lengths)
    assert 0 < counts.drafted[4] < counts.drafted[3]


def test_a_step_with_a_prompt_is_not_full(engine, lengths, prompts):
    lengths.set(((1, 1, 4),))
    ask(engine, *prompts[:2], max_tokens=12)
    seen = []
    while engine.llm_engine.has_unfinished_requests():
        engine.llm_engine.step()
        seen.append(lengths.was_full(2, 4))
        assert not lengths.was_full(2, 3)
    assert not seen[0]
    assert any(seen)


def _engine(*, async_scheduling):
    from vllm import LLM

    return LLM(
        model=str(bundle.target_folder()),
        dtype="float32",
        max_model_len=512,
        max_num_seqs=MAX_NUM_SEQS,
        enforce_eager=True,
        enable_prefix_caching=False,
        seed=0,
        async_scheduling=async_scheduling,
        per_request_spec_decode_metrics="detailed",
        speculative_config={
            "method": "dflash",
            "model": str(bundle.drafter_folder("dpace")),
            "num_speculative_tokens": NUM_DRAFT_TOKENS,
            "draft_sample_method": "greedy",
            "num_speculative_tokens_per_batch_size": [list(one) for one in SCHEDULE],
        },
    )


def generate(engine, prompts):
    """Answers whose limits differ, so that the batch shrinks one by one."""
    from vllm import SamplingParams

    outputs = engine.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts],
        [
            SamplingParams(temperature=0, max_tokens=16 * place, ignore_eos=True)
            for place in range(1, len(prompts) + 1)
        ],
        use_tqdm=False,
    )
    return [output.outputs[0] for output in outputs]


def ask(engine, *prompts, max_tokens):
    from vllm import SamplingParams

    engine.enqueue(
        [{"prompt_token_ids": prompt} for prompt in prompts],
        [SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)] * len(prompts),
        use_tqdm=False,
    )


def finish(engine):
    """The one answer that is still being made."""
    finished = []
    while engine.llm_engine.has_unfinished_requests():
        finished += [output for output in engine.llm_engine.step() if output.finished]
    (output,) = finished
    return output.outputs[0]


def proposer_of(engine):
    executor = engine.llm_engine.engine_core.engine_core.model_executor
    return executor.driver_worker.worker.model_runner.drafter


@contextlib.contextmanager
def counting_tokens(engine):
    """Tokens that the drafter runs on: those of its blocks, and those it reads before."""
    model = proposer_of(engine).model
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


def settled_steps(answer):
    settled = _settled(answer)
    return list(zip(settled.per_step_accepted, settled.per_step_drafted, strict=True))


def _drafted(answer):
    """Draft tokens of each step as the engine verified them, before any cut."""
    counts = copy.deepcopy(answer.spec_decode_metrics)
    if sum(counts.histogram):
        join_cut_step(counts)
    return list(counts.per_step_drafted)


def _settled(answer):
    counts = copy.deepcopy(answer.spec_decode_metrics)
    emitted_by_last_step = join_cut_step(counts)
    return settle_last_step(counts.per_step_accepted, counts.per_step_drafted, emitted_by_last_step)
