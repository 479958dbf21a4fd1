"""Grammars and schemas that no text can satisfy are the client's mistake, not the server's.

vLLM takes some of them, as a rule that begins with itself, and then finds no token that fits; it
ends the request as an internal error.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams

Generate = Callable[..., AsyncGenerator["RequestOutput", None]]

_ERROR = "error"


def refusing(generate: Generate, refusal: Callable[[str], Exception]) -> Generate:
    """The engine's `generate`, which refuses what it could not write an answer to.

    Args:
        generate: The engine's own.
        refusal: Makes what the engine answers with status 400.
    """

    async def generate_or_refuse(
        prompt: object,
        sampling_params: "SamplingParams",
        request_id: str,
        *args: object,
        **kwargs: object,
    ) -> AsyncGenerator["RequestOutput", None]:
        is_constrained = getattr(sampling_params, "structured_outputs", None) is not None
        outputs = generate(prompt, sampling_params, request_id, *args, **kwargs)
        async with aclosing(outputs):
            async for output in outputs:
                if is_constrained and any(one.finish_reason == _ERROR for one in output.outputs):
                    raise refusal(
                        "the schema or grammar of an answer must allow some text, but no token "
                        "fits it. Correct it."
                    )
                yield output

    return generate_or_refuse
