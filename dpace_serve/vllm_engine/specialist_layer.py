"""Position specialists in the engine: the last layer of a drafter, or an adapter, once per group.

Which row of a step belongs to which group lies in tensors that are written when the length of
blocks changes: captured graphs read them, and no step waits for the host or walks over positions.

What is computed group by group is `dpace_serve.drafter.grouped_layers`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override
from vllm.model_executor.layers.linear import QKVParallelLinear
from vllm.model_executor.models.qwen3_dflash import DFlashQwen3Attention, DFlashQwen3DecoderLayer

from dpace_serve.drafter.draft_groups import DraftGroups, Places, RowTable
from dpace_serve.drafter.grouped_layers import (
    GroupedLayer,
    GroupedRMSNorm,
    LayerSizes,
    LowRankAdapters,
)


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """The steps that a drafter may be asked for.

    Attributes:
        groups: The groups of their blocks.
        max_tokens: Most rows of a step, padding included, and one more. Where a step takes all of
            a tensor, the compiler takes its size for a constant, and the engine drops the guard
            that would notice a shorter step.
    """

    groups: DraftGroups
    max_tokens: int


class StepAdapters(nn.Module):
    """Adapters of the groups, and whose rows are whose."""

    adapted_groups: Tensor
    """Group of each row, -1 for anchors: rows."""
    shares: Tensor
    """1 where a row belongs to the group of an inner value, else 0: rows, groups * rank."""

    def __init__(self, plan: BlockPlan, hidden_size: int) -> None:
        super().__init__()
        self._plan = plan
        self.adapters = LowRankAdapters(plan.groups, hidden_size)
        adapted_groups = torch.zeros(plan.max_tokens, dtype=torch.int64)
        shares = torch.zeros(plan.max_tokens, len(self.adapters.inner))
        self.register_buffer("adapted_groups", adapted_groups, persistent=False)
        self.register_buffer("shares", shares, persistent=False)

    def follow(self, num_draft_tokens: int) -> None:
        """Take the coming rows as blocks of this many draft tokens."""
        groups, num_rows = self._plan.groups, self._plan.max_tokens
        device = self.shares.device
        adapted = groups.adapted_groups(num_draft_tokens, num_rows=num_rows, device=device)
        self.adapted_groups.copy_(adapted)
        self.shares.copy_(groups.shares(adapted))

    def load(self, name: str, weight: Tensor) -> None:
        """Write a tensor of the checkpoint over what is there."""
        self.adapters.load(name, weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """Normed last hidden states, adapted: rows, hidden."""
        num_rows = len(hidden)
        if hidden.device.type == "cpu" and torch.compiler.is_compiling():
            # The calls of two small products take a CPU longer than the products themselves.
            return self.adapters.row_by_row(hidden, self.adapted_groups[:num_rows])
        adapted: Tensor = self.adapters(hidden, self.shares[:num_rows])
        return adapted


class SharedAttention(nn.Module):
    """Attention of the last layer, whose queries and outputs belong to the groups.

    Has what the engine reads of a plain one, to compute the keys and values of the context.
    """

    q_norm: GroupedRMSNorm

    def __init__(self, plain: DFlashQwen3Attention) -> None:
        super().__init__()
        self.attn, self.rotary_emb, self.k_norm = plain.attn, plain.rotary_emb, plain.k_norm
        self.causal, self.v_scale = plain.causal, plain.v_scale
        self.head_dim, self.num_kv_heads = plain.head_dim, plain.num_kv_heads
        self.kv_size, self.q_size = plain.kv_size, 0
        self.qkv_proj = QKVParallelLinear(
            plain.hidden_size,
            plain.head_dim,
            total_num_heads=0,
            total_num_kv_heads=plain.total_num_kv_heads,
            bias=plain.qkv_proj.bias is not None,
            prefix=plain.qkv_proj.prefix,
        )

    def forward(self, positions: Tensor, normed: Tensor, queries: Tensor) -> Tensor:
        """Let rows look at the context and their block.

        Args:
            positions: Positions in the text: rows.
            normed: What keys and values are made of: rows, hidden.
            queries: Normed and not rotated: rows, heads * head_dim.
        """
        keys_and_values, _ = self.qkv_proj(normed)
        keys, values = keys_and_values.split([self.kv_size, self.kv_size], dim=-1)
        by_head = keys.reshape(-1, self.num_kv_heads, self.head_dim)
        keys = self.k_norm(by_head).view(keys.shape)
        queries, keys = self.rotary_emb(positions, queries, keys)
        if self.v_scale is not None:
            values = values * self.v_scale
        attended: Tensor = self.attn(queries, keys, values)
        return attended


class SpecialistLayer(GroupedLayer):
    """The last layer of a drafter; takes the place of a plain one, which it is made of."""

    group: Tensor
    slot: Tensor
    rows: Tensor
    """These three are the `RowTable` of the longest step."""

    def __init__(self, plain: DFlashQwen3DecoderLayer, plan: BlockPlan, intermediate: int) -> None:
        attention = plain.self_attn
        sizes = LayerSizes(
            hidden=plain.hidden_size,
            queries=attention.q_size,
            head_dim=attention.head_dim,
            intermediate=intermediate,
            eps=plain.input_layernorm.variance_epsilon,
            has_bias=attention.qkv_proj.bias is not None,
        )
        super().__init__(plan.groups, sizes, SharedAttention(attention))
        self._plan = plan
        num_rows = torch.zeros(plan.max_tokens, dtype=torch.int64)
        num_places = plan.groups.rows_per_group(plan.max_tokens) + 1  # one more here too
        places = torch.zeros(plan.groups.num_groups, num_places, dtype=torch.int64)
        self.register_buffer("group", num_rows, persistent=False)
        self.register_buffer("slot", num_rows.clone(), persistent=False)
        self.register_buffer("rows", places, persistent=False)

    def follow(self, num_draft_tokens: int) -> None:
        """Take the coming rows as blocks of this many draft tokens."""
        table = self._plan.groups.table(
            num_draft_tokens,
            num_rows=self._plan.max_tokens,
            num_places=self.rows.shape[1],
            device=self.group.device,
        )
        self.group.copy_(table.group)
        self.slot.copy_(table.slot)
        self.rows.copy_(table.rows)

    @override
    def forward(
        self, positions: Tensor, hidden_states: Tensor, residual: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What the plain layer computes, each draft row with the weights of its group.

        An anchor's row gives its key and value; what comes out of it predicts no token.
        """
        residual = hidden_states if residual is None else hidden_states + residual
        places = self._places(len(residual))
        normed, queries = self.before_attention(residual, places)
        attended = self.self_attn(positions, normed, queries)
        return self.after_attention(residual, attended, places)

    def _places(self, num_tokens: int) -> Places:
        table = RowTable(self.group, self.slot, self.rows)
        return self._plan.groups.places(table, num_tokens)
