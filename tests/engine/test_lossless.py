"""Speculation changes no answer: token for token when greedy, in distribution when sampling."""

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]

MAX_TOKENS = 48


@pytest.fixture(scope="module")
def greedy_answers(plain_engine, prompts):
    """The target's own answers, one prompt at a time."""
    return answers_alone(plain_engine, prompts)


def test_greedy_answers_are_the_targets_own_one_at_a_time(
    speculative_engine, prompts, greedy_answers
):
    assert len(prompts) >= 64
    assert answers_alone(speculative_engine, prompts) == greedy_answers


def test_greedy_answers_are_the_targets_own_in_a_batch(speculative_engine, prompts, greedy_answers):
    finished = generate(speculative_engine, prompts)
    assert [list(output.outputs[0].token_ids) for output in finished] == greedy_answers
    # The comparison means something only where drafts were accepted.
    steps = [output.outputs[0].spec_decode_metrics for output in finished]
    accepted = sum(j * count for counts in steps for j, count in enumerate(counts.histogram))
    assert accepted > len(prompts)


def answers_alone(engine, prompts):
    return [list(generate(engine, [prompt])[0].outputs[0].token_ids) for prompt in prompts]


def generate(engine, prompts):
    from vllm import SamplingParams

    return engine.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts],
        SamplingParams(temperature=0, max_tokens=MAX_TOKENS),
        use_tqdm=False,
    )
