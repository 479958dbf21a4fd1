"""Attention of many blocks at once, in several implementations of one rule; see `Sight`."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from dpace_training.config import AttentionName
from dpace_training.drafter.one_sequence import FlexAttention, SdpaAttention
from dpace_training.drafter.sight import Sight
from dpace_training.drafter.two_part import TwoPartAttention


@runtime_checkable
class Attention(Protocol):
    """Attention under one sight, whose masks are made once for all layers that share it."""

    def __call__(
        self,
        queries: Float[Tensor, "documents blocks block_size heads head_dim"],
        context_keys: Float[Tensor, "documents tokens kv_heads head_dim"],
        context_values: Float[Tensor, "documents tokens kv_heads head_dim"],
        block_keys: Float[Tensor, "documents blocks block_size kv_heads head_dim"],
        block_values: Float[Tensor, "documents blocks block_size kv_heads head_dim"],
    ) -> Float[Tensor, "documents blocks block_size heads*head_dim"]:
        """Mix values by softmax of scaled scores, over visible context and the own block.

        A position sees at least itself, so no softmax is empty. Query head i reads key-value head
        `i // (heads / kv_heads)`.

        Args:
            queries: Rotated queries of the block tokens.
            context_keys: Rotated keys of the context.
            context_values: Values of the context, finite also where nobody looks.
            block_keys: Rotated keys of the block tokens.
            block_values: Values of the block tokens.
        """


ATTENTIONS: dict[AttentionName, Callable[[Sight], Attention]] = {
    "two_part": TwoPartAttention,
    "sdpa": SdpaAttention,
    "flex": FlexAttention,
}
