"""Attention of many blocks at once: each sees context before its anchor, and itself.

The scores come in two parts, block queries against context keys and block queries against the keys
of their own block, and share one softmax. Blocks never meet, so no matrix over all block tokens
squared exists.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dpace_serve.drafter.sliding import SlidingAttention


@dataclass(frozen=True, slots=True)
class BlockMask:
    """What block positions must not see.

    `context` is True where one must not see a context position; its axis of block positions has
    size 1 where all of a block see the same. `own` is True where one (first axis) must not see
    another of its block; None hides nothing.
    """

    context: Bool[Tensor, "documents blocks rows tokens"]
    own: Bool[Tensor, "block_size block_size"] | None


def full_mask(
    anchors: Int[Tensor, "documents blocks"],
    num_tokens: int,
    *,
    starts: Int[Tensor, "documents blocks"],
) -> BlockMask:
    """A block sees all context of its document before its anchor, and all of itself."""
    positions = torch.arange(num_tokens, device=anchors.device)
    is_hidden = (positions >= anchors.unsqueeze(-1)) | (positions < starts.unsqueeze(-1))
    return BlockMask(is_hidden.unsqueeze(2), None)


def sliding_mask(
    anchors: Int[Tensor, "documents blocks"],
    num_tokens: int,
    *,
    starts: Int[Tensor, "documents blocks"],
    block_size: int,
    sliding: SlidingAttention,
) -> BlockMask:
    """A position sees context in its own window, which moves along the block.

    The window holds the position itself, so the context it reaches shrinks by one with each
    position of the block. It is never smaller than the block, so it cuts nothing of it.
    """
    positions = torch.arange(num_tokens, device=anchors.device)
    offsets = torch.arange(block_size, device=anchors.device)
    queries = anchors[..., None, None] + offsets.unsqueeze(-1)
    is_hidden = (positions >= anchors[..., None, None]) | (positions <= queries - sliding.window)
    is_hidden |= positions < starts[..., None, None]
    own = offsets > offsets.unsqueeze(-1) if sliding.is_causal else None
    return BlockMask(is_hidden, own)


def block_attention(
    queries: Float[Tensor, "documents blocks block_size heads head_dim"],
    context_keys: Float[Tensor, "documents tokens kv_heads head_dim"],
    context_values: Float[Tensor, "documents tokens kv_heads head_dim"],
    block_keys: Float[Tensor, "documents blocks block_size kv_heads head_dim"],
    block_values: Float[Tensor, "documents blocks block_size kv_heads head_dim"],
    mask: BlockMask,
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
        mask: What must not be seen.
    """
    documents, blocks, block_size, heads, head_dim = queries.shape
    tokens, kv_heads = context_keys.shape[1:3]
    rows = heads // kv_heads * block_size  # query rows per block and key-value head

    # Grouped per key-value head and block, both products read this one layout without a copy.
    grouped = (queries / math.sqrt(head_dim)).view(
        documents, blocks, block_size, kv_heads, heads // kv_heads, head_dim
    )
    grouped = grouped.permute(0, 3, 1, 4, 2, 5).reshape(documents, kv_heads, blocks, rows, head_dim)
    own_keys = block_keys.permute(0, 3, 1, 4, 2)
    own_values = block_values.permute(0, 3, 1, 2, 4)

    context_scores = grouped.flatten(2, 3) @ context_keys.permute(0, 2, 3, 1)
    per_head = (documents, kv_heads, blocks, heads // kv_heads, block_size)
    context_scores = context_scores.view(*per_head, tokens)
    context_scores = context_scores.masked_fill_(mask.context[:, None, :, None], -math.inf)
    own_scores = (grouped @ own_keys).view(*per_head, block_size)
    if mask.own is not None:
        own_scores = own_scores.masked_fill(mask.own, -math.inf)
    scores = torch.cat((context_scores, own_scores), dim=-1).flatten(3, 4)
    context_share, own_share = torch.split(scores.softmax(dim=-1), [tokens, block_size], dim=-1)

    mixed = context_share.flatten(2, 3) @ context_values.transpose(1, 2)
    mixed = mixed.view(documents, kv_heads, blocks, rows, head_dim) + own_share @ own_values
    mixed = mixed.view(documents, kv_heads, blocks, heads // kv_heads, block_size, head_dim)
    return mixed.permute(0, 2, 4, 1, 3, 5).flatten(3)
