"""What we rely on in the requests that vLLM 0.32 makes of a client's one."""

from types import SimpleNamespace

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]


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
