"""Requests that leave the drafter no room cost no other its drafts, and no step is made up."""

from collections import Counter

import pytest

from dpace_serve.vllm_engine.settlement import join_cut_step

pytestmark = [pytest.mark.engine, pytest.mark.slow]

MAX_MODEL_LEN = 512
SHORT_DRAFTER_LEN = 256
NUM_DRAFT_TOKENS = 7
LONG_ANSWER = 40
MAX_TOKENS = 100
ONE_TOKEN = [45]


@pytest.fixture(scope="session")
def long_prompt(prompts):
    """A prompt whose answer leaves room for a block in some of its steps only."""
    return (prompts[0] * MAX_MODEL_LEN)[: MAX_MODEL_LEN - LONG_ANSWER]


def ask(engine, asked):
    """Answers to prompts with a limit each, in their order."""
    from vllm import SamplingParams

    return engine.generate(
        [{"prompt_token_ids": prompt} for prompt, _ in asked],
        [SamplingParams(temperature=0, max_tokens=limit, ignore_eos=True) for _, limit in asked],
        use_tqdm=False,
    )


def steps_of(output):
    """Tokens of the answer, and accepted and drafted tokens of each step as the engine has them."""
    answer = output.outputs[0]
    counts = answer.spec_decode_metrics
    emitted_by_last_step = join_cut_step(counts) if counts.per_step_accepted else 0
    whole_steps = counts.per_step_accepted[:-1]
    num_verified = sum(accepted + 1 for accepted in whole_steps) + emitted_by_last_step
    return (
        list(answer.token_ids), counts.per_step_accepted, counts.per_step_drafted, num_verified
    )  # fmt: skip


def test_a_long_neighbour_takes_no_draft_from_anybody(speculative_engine, prompts, long_prompt):
    alone = [steps_of(ask(speculative_engine, [(prompt, MAX_TOKENS)])[0]) for prompt in prompts[:4]]
    speculative_engine.reset_prefix_cache()
    *outputs, long = ask(
        speculative_engine,
        [*((prompt, MAX_TOKENS) for prompt in prompts[:4]), (long_prompt, LONG_ANSWER)],
    )
    assert [steps_of(output) for output in outputs] == alone
    for tokens, _, drafted, num_verified in alone:
        assert set(drafted) == {NUM_DRAFT_TOKENS}
        assert num_verified == len(tokens) - 1
    tokens, _, drafted, num_verified = steps_of(long)
    assert set(drafted) == {NUM_DRAFT_TOKENS}
    # Its last tokens come from steps without drafts.
    assert 0 < num_verified < len(tokens) - 1 - NUM_DRAFT_TOKENS


def test_what_is_read_beside_a_long_neighbour_serves_from_the_prefix_cache(
    speculative_engine, prompts
):
    """Three blocks of 128 tokens, of which the last is always read again."""
    prompt = [token for one in prompts[4:] for token in one][:390]
    speculative_engine.reset_prefix_cache()
    quiet = steps_of(ask(speculative_engine, [(prompt, MAX_TOKENS)])[0])
    speculative_engine.reset_prefix_cache()
    # A neighbour without any room for a block, in the step that reads this prompt.
    full = (prompts[0] * MAX_MODEL_LEN)[: MAX_MODEL_LEN - 4]
    _, beside = ask(speculative_engine, [(full, 3), (prompt, 1)])
    assert beside.num_cached_tokens == 0
    (cached,) = ask(speculative_engine, [(prompt, MAX_TOKENS)])
    assert cached.num_cached_tokens == 256
    assert steps_of(cached) == quiet


def test_every_proposal_but_the_last_is_verified(
    speculative_engine, prompts, long_prompt, observing
):
    proposals = Counter()
    with observing(
        speculative_engine,
        lambda step: proposals.update(name.split("-")[0] for name in step.request_ids),
    ):
        output, _ = ask(speculative_engine, [(prompts[0], 160), (long_prompt, LONG_ANSWER)])
    # The answer has ended when the last one is made.
    assert len(steps_of(output)[2]) == proposals[output.request_id] - 1


def test_a_sequence_longer_than_its_drafter_is_answered_and_takes_no_draft_from_anybody(
    short_drafter_engine, plain_engine, prompts
):
    crossing = (prompts[0] * MAX_MODEL_LEN)[: SHORT_DRAFTER_LEN - 30]
    beyond = (prompts[1] * MAX_MODEL_LEN)[: SHORT_DRAFTER_LEN + 50]
    asked = [(prompts[2], MAX_TOKENS), (crossing, MAX_TOKENS), (beyond, MAX_TOKENS)]
    alone = steps_of(ask(short_drafter_engine, asked[:1])[0])
    short_drafter_engine.reset_prefix_cache()
    outputs = ask(short_drafter_engine, asked)
    assert [list(output.outputs[0].token_ids) for output in outputs] == [
        list(output.outputs[0].token_ids) for output in ask(plain_engine, asked)
    ]
    assert steps_of(outputs[0]) == alone
    assert 0 < steps_of(outputs[1])[3] < MAX_TOKENS - 1 - NUM_DRAFT_TOKENS
    assert steps_of(outputs[2])[1:] == ([], [], 0)


@pytest.mark.parametrize("limit", [1, 2, 20])
def test_a_prompt_of_one_token_enters_without_drafts(speculative_engine, prompts, limit):
    """Beside a running request vLLM would have it verify tokens that nobody drafted."""
    (alone,) = ask(speculative_engine, [(ONE_TOKEN, limit)])
    # There is room for eight: the last one enters when the first has ended.
    running = [(prompt, 8 if row == 0 else 60) for row, prompt in enumerate(prompts[:8])]
    *_, beside = ask(speculative_engine, [*running, (ONE_TOKEN, limit)])
    assert steps_of(beside) == steps_of(alone)
    tokens, _, _, num_verified = steps_of(beside)
    assert num_verified == len(tokens) - 1 == limit - 1
