"""What vLLM 0.32 makes of what a client asks, where we refuse or change it."""

import inspect

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_vllm_0_32_asks_for_scores_of_given_tokens_by_a_sampling_parameter():
    from vllm import SamplingParams
    from vllm.entrypoints.generate import label_reads
    from vllm.entrypoints.generate.generative_scoring import serving

    assert SamplingParams().logprob_token_ids is None
    assert "logprob_token_ids=request.label_token_ids" in inspect.getsource(serving)
    assert "engine_client.generate(" in inspect.getsource(label_reads)
