"""Sampling parameters on a step that verifies nothing: every first step of an idle engine.

A speculating engine samples with the rejection sampler even then, on logits without a row.
"""

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]

NUM_TOKENS = 6
PARAMETERS = {
    "top_k": {"temperature": 1, "top_k": 3},
    "top_p": {"temperature": 1, "top_p": 0.8},
    "top_k and top_p": {"temperature": 1, "top_k": 3, "top_p": 0.8},
    "top_k of greedy": {"temperature": 0, "top_k": 3},
    "seed": {"temperature": 1, "top_k": 3, "seed": 5},
    "penalties": {
        "temperature": 1,
        "top_k": 3,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.2,
    },
    "log probabilities": {"temperature": 1, "top_k": 3, "logprobs": 2, "prompt_logprobs": 1},
    "bad words": {"temperature": 1, "top_k": 3, "bad_words": ["the"]},
    "allowed tokens": {"temperature": 1, "top_k": 3, "allowed_token_ids": [40, 41, 42, 43]},
    "least tokens": {"temperature": 1, "top_k": 3, "min_tokens": 4},
}
REFUSED = {
    "min_p": {"temperature": 1, "min_p": 0.1},
    "logit bias": {"temperature": 1, "logit_bias": {40: 5.0}},
}


def ask(engine, prompts, sampling):
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True, **sampling)
    tokens = [{"prompt_token_ids": prompt} for prompt in prompts]
    outputs = engine.generate(tokens, params, use_tqdm=False)
    return [output.outputs[0].token_ids for output in outputs]


@pytest.mark.parametrize("sampling", PARAMETERS.values(), ids=PARAMETERS)
def test_a_first_step_with_any_sampling_parameter_is_answered(
    speculative_engine, prompts, sampling
):
    for batch in (prompts[:1], prompts[:3]):
        answers = ask(speculative_engine, batch, sampling)
        assert [len(answer) for answer in answers] == [NUM_TOKENS] * len(batch)


@pytest.mark.parametrize("sampling", REFUSED.values(), ids=REFUSED)
def test_what_the_engine_cannot_do_it_refuses_and_lives_on(speculative_engine, prompts, sampling):
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match="speculative decoding"):
        ask(speculative_engine, prompts[:1], sampling)
    assert len(ask(speculative_engine, prompts[:1], {"temperature": 0})[0]) == NUM_TOKENS


def test_a_top_k_of_one_is_the_greedy_answer(speculative_engine, prompts):
    greedy = ask(speculative_engine, prompts[:4], {"temperature": 0})
    assert ask(speculative_engine, prompts[:4], {"temperature": 1, "top_k": 1}) == greedy
