"""Context and all block tokens as one sequence, for attention that torch computes.

Keys come in the order [context | block 0 | block 1 | ...], queries in that of the blocks. Over this
sequence `sdpa` hides by a full matrix what a position must not see, which makes it the readable
reference; `flex` skips what a whole tile of positions must not see.
"""

from collections.abc import Callable
from functools import cache
from typing import no_type_check

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from dpace_training.drafter.sight import Sight

Joined = tuple[Tensor, Tensor, Tensor]
PairRule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class SdpaAttention:
    """Scaled dot product attention with a mask over all pairs of a block token and a key."""

    def __init__(self, sight: Sight) -> None:
        self._visible = visible_keys(sight).unsqueeze(1)

    def __call__(
        self,
        queries: Float[Tensor, "documents blocks block_size heads head_dim"],
        context_keys: Float[Tensor, "documents tokens kv_heads head_dim"],
        context_values: Float[Tensor, "documents tokens kv_heads head_dim"],
        block_keys: Float[Tensor, "documents blocks block_size kv_heads head_dim"],
        block_values: Float[Tensor, "documents blocks block_size kv_heads head_dim"],
    ) -> Float[Tensor, "documents blocks block_size heads*head_dim"]:
        """See `Attention`."""
        joined = _join(queries, context_keys, context_values, block_keys, block_values)
        mixed = scaled_dot_product_attention(*joined, attn_mask=self._visible, enable_gqa=True)
        return _split(mixed, queries)


class FlexAttention:
    """Flex attention: block-sparse, in tiles of 128 queries and 128 keys.

    A tile of keys that no query of a tile sees is never computed: context behind the last anchor
    or before the first start or window, and other blocks but those that share its tile. torch 2.13
    has no backward pass of it on a CPU.
    """

    def __init__(self, sight: Sight) -> None:
        self._attend: Callable[..., Tensor] = flex_attention
        create: Callable[..., BlockMask] = create_block_mask
        # Not compiled, both make full matrices, which on a CPU serve to check the masks.
        if sight.anchors.device.type != "cpu":
            self._attend, create = _compiled_flex_attention(), _compiled_create_block_mask()
        documents, blocks = sight.anchors.shape
        num_queries = blocks * sight.block_size
        self.mask: BlockMask = create(
            _visibility(sight),
            documents,
            None,
            num_queries,
            sight.num_tokens + num_queries,
            device=sight.anchors.device,
        )

    def __call__(
        self,
        queries: Float[Tensor, "documents blocks block_size heads head_dim"],
        context_keys: Float[Tensor, "documents tokens kv_heads head_dim"],
        context_values: Float[Tensor, "documents tokens kv_heads head_dim"],
        block_keys: Float[Tensor, "documents blocks block_size kv_heads head_dim"],
        block_values: Float[Tensor, "documents blocks block_size kv_heads head_dim"],
    ) -> Float[Tensor, "documents blocks block_size heads*head_dim"]:
        """See `Attention`."""
        joined = _join(queries, context_keys, context_values, block_keys, block_values)
        mixed = self._attend(*joined, block_mask=self.mask, enable_gqa=True)
        return _split(mixed, queries)


def visible_keys(sight: Sight) -> Bool[Tensor, "documents queries keys"]:
    """Which keys of the sequence each block token sees."""
    documents, blocks = sight.anchors.shape
    size = sight.block_size
    context = ~sight.hidden_context().expand(-1, -1, size, -1).flatten(1, 2)
    hidden = sight.hidden_own()
    own = torch.ones(size, size, device=context.device) if hidden is None else ~hidden
    own = torch.block_diag(*[own] * blocks).bool()
    return torch.cat([context, own.expand(documents, -1, -1)], dim=-1)


def _visibility(sight: Sight) -> PairRule:
    """`visible_keys` as a rule for one pair of places in the sequence."""
    size, num_tokens, is_causal = sight.block_size, sight.num_tokens, sight.is_causal
    anchors, starts = sight.anchors, sight.starts
    # A window that never cuts, rather than a second rule without one.
    window = num_tokens + size if sight.window is None else sight.window

    @no_type_check  # flex attention traces the code, so no check at run time may wrap it
    def is_visible(document: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        block, offset = query // size, query % size
        anchor, own = anchors[document, block], key - num_tokens
        in_context = (key < anchor) & (key >= starts[document, block])
        in_context = in_context & (key < num_tokens) & (key > anchor + offset - window)
        in_own = (own >= 0) & (own // size == block)
        if is_causal:
            in_own = in_own & (own <= query)
        return in_context | in_own

    rule: PairRule = is_visible
    return rule


@cache
def _compiled_flex_attention() -> Callable[..., Tensor]:
    # Made when first needed: the compiler's import takes seconds.
    return torch.compile(flex_attention)


@cache
def _compiled_create_block_mask() -> Callable[..., BlockMask]:
    return torch.compile(create_block_mask)


def _join(
    queries: Tensor,
    context_keys: Tensor,
    context_values: Tensor,
    block_keys: Tensor,
    block_values: Tensor,
) -> Joined:
    """Queries, keys and values of the sequence, heads before positions."""
    keys = torch.cat([context_keys, block_keys.flatten(1, 2)], dim=1)
    values = torch.cat([context_values, block_values.flatten(1, 2)], dim=1)
    return queries.flatten(1, 2).transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)


def _split(
    mixed: Float[Tensor, "documents heads queries head_dim"], queries: Tensor
) -> Float[Tensor, "documents blocks block_size heads*head_dim"]:
    return mixed.transpose(1, 2).reshape(*queries.shape[:3], -1)
