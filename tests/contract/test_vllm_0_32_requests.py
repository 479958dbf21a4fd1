"""What vLLM 0.32 makes of what a client asks, where we refuse, change or rely on it."""

import inspect
from types import SimpleNamespace

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_vllm_0_32_asks_for_scores_of_given_tokens_by_a_sampling_parameter():
    from vllm import SamplingParams
    from vllm.entrypoints.generate import label_reads
    from vllm.entrypoints.generate.generative_scoring import serving

    assert SamplingParams().logprob_token_ids is None
    assert "logprob_token_ids=request.label_token_ids" in inspect.getsource(serving)
    assert "engine_client.generate(" in inspect.getsource(label_reads)


async def test_vllm_0_32_beams_are_named_as_such_and_lose_what_their_request_said():
    from vllm.entrypoints.generate.beam_search.online import BeamSearchOnlineMixin
    from vllm.sampling_params import BeamSearchParams, SamplingParams

    from dpace_serve.vllm_engine.bound_request import is_beam

    asked = []

    class Engine:
        input_processor = SimpleNamespace(resolve_watermarking=lambda params: None)

        async def generate(self, prompt, sampling_params, request_id, **kwargs):
            asked.append((request_id, sampling_params))
            logprob = SimpleNamespace(logprob=-1.0, decoded_token=None)
            answer = SimpleNamespace(
                finish_reason="length", logprobs=[{5: logprob, 6: logprob}], token_ids=[5]
            )
            yield SimpleNamespace(outputs=[answer], prompt_token_ids=[1])

    class Serving(BeamSearchOnlineMixin):
        engine_client = Engine()
        renderer = SimpleNamespace(
            get_tokenizer=lambda: SimpleNamespace(eos_token_id=2, decode=lambda *_, **__: "")
        )

    prompt = {"type": "token", "prompt_token_ids": [1]}
    params = BeamSearchParams(beam_width=2, max_tokens=2)
    async for _ in Serving().beam_search(prompt, "cmpl-r1-0", params):
        pass
    assert len(asked) == 3  # one beam, then two
    assert all(is_beam(request_id) for request_id, _ in asked)
    assert all(isinstance(given, SamplingParams) for _, given in asked)
    assert [given.extra_args for _, given in asked] == [None] * 3
