"""Attention of many blocks at once: each sees the context before its anchor, and itself.

The scores come in two parts, block queries against context keys and block queries against the keys
of their own block, and share one softmax. Blocks never meet, so no matrix over all block tokens
squared exists.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def block_attention(
    queries: Float[Tensor, "documents blocks block_size heads head_dim"],
    context_keys: Float[Tensor, "documents tokens kv_heads head_dim"],
    context_values: Float[Tensor, "documents tokens kv_heads head_dim"],
    block_keys: Float[Tensor, "documents blocks block_size kv_heads head_dim"],
    block_values: Float[Tensor, "documents blocks block_size kv_heads head_dim"],
    is_hidden: Bool[Tensor, "documents blocks tokens"],
) -> Float[Tensor, "documents blocks block_size heads*head_dim"]:
    """Mix values by softmax of scaled scores, over visible context and the own block.

    Inside a block attention is bidirectional. A block that sees no context still sees itself, so
    no softmax is empty. Query head i reads key-value head `i // (heads / kv_heads)`.

    Args:
        queries: Rotated queries of the block tokens.
        context_keys: Rotated keys of the context.
        context_values: Values of the context, finite also where nobody looks.
        block_keys: Rotated keys of the block tokens.
        block_values: Values of the block tokens.
        is_hidden: True where a block must not see a context position.
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
    context_scores = context_scores.view(documents, kv_heads, blocks, rows, tokens)
    context_scores = context_scores.masked_fill_(is_hidden[:, None, :, None], -math.inf)
    scores = torch.cat((context_scores, grouped @ own_keys), dim=-1)
    context_share, own_share = torch.split(scores.softmax(dim=-1), [tokens, block_size], dim=-1)

    mixed = context_share.flatten(2, 3) @ context_values.transpose(1, 2)
    mixed = mixed.view(documents, kv_heads, blocks, rows, head_dim) + own_share @ own_values
    mixed = mixed.view(documents, kv_heads, blocks, heads // kv_heads, block_size, head_dim)
    return mixed.permute(0, 2, 4, 1, 3, 5).flatten(3)


def rotary_angles(
    positions: Int[Tensor, "*rows"], *, head_dim: int, theta: float
) -> tuple[Float[Tensor, "*rows half"], Float[Tensor, "*rows half"]]:
    """Cosines and sines of the rotary angles at absolute positions, in float32.

    Args:
        positions: Positions in the document, from 0.
        head_dim: Width of a head; all of it is rotated.
        theta: Base of the frequencies.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    frequencies = 1.0 / theta ** (exponents / head_dim)
    angles = positions.to(torch.float32).unsqueeze(-1) * frequencies
    return angles.cos(), angles.sin()


def rotate(
    heads: Float[Tensor, "*rows heads head_dim"],
    cosines: Float[Tensor, "*#rows half"],
    sines: Float[Tensor, "*#rows half"],
) -> Float[Tensor, "*rows heads head_dim"]:
    """Rotate each head; dimension i turns together with dimension i + head_dim / 2."""
    first, second = heads.chunk(2, dim=-1)
    cosines, sines = (table.unsqueeze(-2).to(heads.dtype) for table in (cosines, sines))
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
