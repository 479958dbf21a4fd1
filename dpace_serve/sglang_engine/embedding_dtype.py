"""Lets DFLASH compute in another number format than bfloat16.

SGLang 0.5.23 turns the embeddings of a draft block into bfloat16 whatever the drafter computes in
(model_executor/model_runner.py, `_extend_forward_kwargs`); in float32 and float16 the first draft
then ends the engine with "expected m1 and m2 to have the same dtype".
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from sglang.srt.model_executor.model_runner import ModelRunner


def keep_dtype(
    original: Callable[..., dict[str, Any]],
    runner: "ModelRunner",
    forward_batch: "ForwardBatch",
    pp_proxy_tensors: object,
) -> dict[str, Any]:
    """What goes into a forward, with the embeddings as they were given."""
    arguments = original(runner, forward_batch, pp_proxy_tensors)
    embeddings = forward_batch.input_embeds
    if runner.is_draft_worker and embeddings is not None:
        arguments["input_embeds"] = embeddings.to(runner.dtype)
    return arguments
