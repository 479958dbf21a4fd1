"""Attention in two parts of scores, context and own block, that share one softmax.

Blocks never meet, so no matrix over all block tokens squared exists.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from dpace_training.drafter.sight import Sight


class TwoPartAttention:
    """Matrix products and one softmax; keys outside of a block's sight are computed and hidden."""

    def __init__(self, sight: Sight) -> None:
        self._hidden_context = sight.hidden_context()
        self._hidden_own = sight.hidden_own()

    def __call__(
        self,
        queries: Float[Tensor, "documents blocks block_size heads head_dim"],
        context_keys: Float[Tensor, "documents tokens kv_heads head_dim"],
        context_values: Float[Tensor, "documents tokens kv_heads head_dim"],
        block_keys: Float[Tensor, "documents blocks block_size kv_heads head_dim"],
        block_values: Float[Tensor, "documents blocks block_size kv_heads head_dim"],
    ) -> Float[Tensor, "documents blocks block_size heads*head_dim"]:
        """See `Attention`."""
        documents, blocks, block_size, heads, head_dim = queries.shape
        tokens, kv_heads = context_keys.shape[1:3]
        rows = heads // kv_heads * block_size  # query rows per block and key-value head

        # Grouped per key-value head and block, both products read this one layout without a copy.
        grouped = (queries / math.sqrt(head_dim)).view(
            documents, blocks, block_size, kv_heads, heads // kv_heads, head_dim
        )
        grouped = grouped.permute(0, 3, 1, 4, 2, 5)
        grouped = grouped.reshape(documents, kv_heads, blocks, rows, head_dim)
        own_keys = block_keys.permute(0, 3, 1, 4, 2)
        own_values = block_values.permute(0, 3, 1, 2, 4)

        context_scores = grouped.flatten(2, 3) @ context_keys.permute(0, 2, 3, 1)
        per_head = (documents, kv_heads, blocks, heads // kv_heads, block_size)
        context_scores = context_scores.view(*per_head, tokens)
        context_scores.masked_fill_(self._hidden_context[:, None, :, None], -math.inf)
        own_scores = (grouped @ own_keys).view(*per_head, block_size)
        if self._hidden_own is not None:
            own_scores = own_scores.masked_fill(self._hidden_own, -math.inf)
        scores = torch.cat((context_scores, own_scores), dim=-1).flatten(3, 4)
        context_share, own_share = torch.split(scores.softmax(dim=-1), [tokens, block_size], dim=-1)

        mixed = context_share.flatten(2, 3) @ context_values.transpose(1, 2)
        mixed = mixed.view(documents, kv_heads, blocks, rows, head_dim) + own_share @ own_values
        mixed = mixed.view(documents, kv_heads, blocks, heads // kv_heads, block_size, head_dim)
        return mixed.permute(0, 2, 4, 1, 3, 5).flatten(3)
