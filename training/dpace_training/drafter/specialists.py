"""Position specialists of a drafter: each group of draft positions computes with its own weights.

All groups compute together: rows are sorted by group and multiplied with the stacked weights in one
batched product. Where the groups do not divide the block, the last one is filled up with zeros.

The anchor's last hidden state predicts nothing, so it passes as it came. In the last layer it still
gives a key and a value, behind the input norm of position 1; those of every other token are behind
the norm of its own group. Keys and values are made by projections that all groups share, so those
of the context are the plain drafter's, whichever position reads them.

See `dpace_serve.drafter.specialists` for the kinds and the groups.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dpace_serve.drafter.checkpoint import DrafterConfig
from dpace_serve.drafter.specialists import Specialists
from dpace_training.drafter.attention import Attention
from dpace_training.drafter.layer import (
    BlockAttention,
    DrafterLayer,
    GatedMLP,
    KeysAndValues,
    RMSNorm,
    normalised,
    split_heads,
)
from dpace_training.drafter.rotary import Angles, rotate


@dataclass(frozen=True, slots=True)
class PositionGroups:
    """Draft positions in groups of one size, the last of which may be smaller."""

    num_draft_tokens: int
    num_groups: int
    group_size: int

    @classmethod
    def of(cls, config: DrafterConfig, specialists: Specialists) -> "PositionGroups":
        """The groups of a drafter."""
        length = config.num_draft_tokens
        return cls(length, specialists.num_groups(length), specialists.group_size)

    def split(
        self, drafts: Float[Tensor, "documents blocks positions size"]
    ) -> Float[Tensor, "groups rows size"]:
        """The rows of all blocks, sorted by group; zeros where the last group lacks positions."""
        num_missing = self.num_groups * self.group_size - self.num_draft_tokens
        filled = functional.pad(drafts, (0, 0, 0, num_missing)) if num_missing else drafts
        by_group = filled.reshape(-1, self.num_groups, self.group_size, filled.shape[-1])
        return by_group.transpose(0, 1).flatten(1, 2)

    def join(
        self, rows: Float[Tensor, "groups rows size"], blocks: torch.Size
    ) -> Float[Tensor, "documents blocks positions size"]:
        """The rows back in their blocks; undoes `split`.

        Args:
            rows: Rows sorted by group.
            blocks: Number of documents, and of blocks in each.
        """
        size = rows.shape[-1]
        by_block = rows.view(self.num_groups, -1, self.group_size, size).transpose(0, 1)
        drafts = by_block.flatten(1, 2)[:, : self.num_draft_tokens]
        return drafts.reshape(*blocks, self.num_draft_tokens, size)

    def per_position(self, rows: Float[Tensor, "groups size"]) -> Float[Tensor, "positions size"]:
        """The row of its group for each draft position."""
        # Not repeat_interleave: its gradient adds up in any order on an accelerator.
        repeated = rows.unsqueeze(1).expand(-1, self.group_size, -1).flatten(0, 1)
        return repeated[: self.num_draft_tokens]


class GroupedLinear(nn.Module):
    """A linear map per group."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    @classmethod
    def replicated(cls, linear: nn.Linear, num_groups: int) -> "GroupedLinear":
        """The same map for every group."""
        bias = None if linear.bias is None else _stacked(linear.bias, num_groups)
        return cls(_stacked(linear.weight, num_groups), bias)

    def forward(
        self, rows: Float[Tensor, "groups rows inputs"]
    ) -> Float[Tensor, "groups rows outputs"]:
        """Map the rows of each group by its own weights, in one batched product."""
        mapped = rows @ self.weight.transpose(1, 2)
        return mapped if self.bias is None else mapped + self.bias.unsqueeze(1)


class GroupedRMSNorm(nn.Module):
    """Root mean square 1, then a learned weight per group."""

    def __init__(self, norm: RMSNorm, groups: PositionGroups) -> None:
        super().__init__()
        self.weight = nn.Parameter(_stacked(norm.weight, groups.num_groups))
        self.eps = norm.eps
        self._groups = groups

    def forward(
        self, rows: Float[Tensor, "documents blocks indices *heads size"]
    ) -> Float[Tensor, "documents blocks indices *heads size"]:
        """Normalise rows of draft positions, or of whole blocks, anchor first."""
        weights = self._groups.per_position(self.weight)
        if rows.shape[2] > len(weights):
            weights = torch.cat((weights[:1], weights))
        while weights.ndim < rows.ndim - 2:
            weights = weights.unsqueeze(1)
        return normalised(rows, self.eps) * weights


class LowRankSpecialists(nn.Module):
    """Adds to each draft position's last hidden state what its group's adapter makes of it.

    An adapter is two matrices with a narrow middle; the outer one starts at zero, so that a fresh
    adapter changes nothing.

    Source:
        The form of the adapter: LoRA, arXiv 2106.09685.
    """

    def __init__(self, config: DrafterConfig, specialists: Specialists) -> None:
        super().__init__()
        self._groups = PositionGroups.of(config, specialists)
        inner = (self._groups.num_groups, specialists.rank, config.hidden_size)
        reach = 1 / math.sqrt(config.hidden_size)  # as torch starts a linear map
        self.adapter_in = GroupedLinear(torch.empty(inner).uniform_(-reach, reach))
        self.adapter_out = GroupedLinear(torch.zeros(inner[0], inner[2], inner[1]))

    def forward(
        self, hidden: Float[Tensor, "documents blocks block_size hidden"]
    ) -> Float[Tensor, "documents blocks block_size hidden"]:
        """Normed last hidden states, adapted at all indices but the anchor's."""
        anchor, drafts = hidden[:, :, :1], hidden[:, :, 1:]
        change = self.adapter_out(self.adapter_in(self._groups.split(drafts)))
        return torch.cat((anchor, drafts + self._groups.join(change, hidden.shape[:2])), dim=2)


class SharedProjections(nn.Module):
    """Keys and values of the last layer, by projections that all groups share."""

    def __init__(self, attention: BlockAttention) -> None:
        super().__init__()
        self.k_proj = attention.k_proj
        self.v_proj = attention.v_proj
        self.k_norm = attention.k_norm
        self.head_dim = attention.head_dim


class SharedLayer(nn.Module):
    """What is left of the last layer when each group has the rest of it."""

    def __init__(self, layer: DrafterLayer) -> None:
        super().__init__()
        self.self_attn = SharedProjections(layer.self_attn)

    def read_context(self, context: Float[Tensor, "*rows hidden"], angles: Angles) -> KeysAndValues:
        """Keys, rotated, and values of context features, or of normed block tokens."""
        shared = self.self_attn
        keys = shared.k_norm(split_heads(shared.k_proj(context), shared.head_dim))
        return rotate(keys, *angles), split_heads(shared.v_proj(context), shared.head_dim)


class LastLayerSpecialists(nn.Module):
    """The last layer once per group, each starting from the same plain layer.

    Its parameters have the names that they have in a plain layer.
    """

    def __init__(
        self, config: DrafterConfig, specialists: Specialists, layer: DrafterLayer
    ) -> None:
        super().__init__()
        self._groups = PositionGroups.of(config, specialists)
        self.input_layernorm = GroupedRMSNorm(layer.input_layernorm, self._groups)
        self.self_attn = _GroupedQueries(layer.self_attn, self._groups)
        self.post_attention_layernorm = GroupedRMSNorm(layer.post_attention_layernorm, self._groups)
        self.mlp = _GroupedMLP(layer.mlp, self._groups.num_groups)

    def forward(
        self,
        shared: SharedLayer,
        hidden: Float[Tensor, "documents blocks block_size hidden"],
        context: KeysAndValues,
        block_angles: Angles,
        attend: Attention,
    ) -> Float[Tensor, "documents blocks block_size hidden"]:
        """What `DrafterLayer` computes, at each draft position with the weights of its group."""
        groups, blocks = self._groups, hidden.shape[:2]
        normed = self.input_layernorm(hidden)
        queries = groups.join(self.self_attn.q_proj(groups.split(normed[:, :, 1:])), blocks)
        queries = self.self_attn.q_norm(split_heads(queries, self.self_attn.head_dim))
        queries = rotate(queries, *(table[:, :, 1:] for table in block_angles))
        # The anchor asks for nothing: what it would get predicts no token.
        queries = functional.pad(queries, (0, 0, 0, 0, 1, 0))
        keys, values = shared.read_context(normed, block_angles)
        attended = attend(queries, *context, keys, values)[:, :, 1:]
        attended = groups.join(self.self_attn.o_proj(groups.split(attended)), blocks)
        drafts = hidden[:, :, 1:] + attended
        mapped = self.mlp(groups.split(self.post_attention_layernorm(drafts)))
        return torch.cat((hidden[:, :, :1], drafts + groups.join(mapped, blocks)), dim=2)


class _GroupedQueries(nn.Module):
    def __init__(self, attention: BlockAttention, groups: PositionGroups) -> None:
        super().__init__()
        self.q_proj = GroupedLinear.replicated(attention.q_proj, groups.num_groups)
        self.o_proj = GroupedLinear.replicated(attention.o_proj, groups.num_groups)
        self.q_norm = GroupedRMSNorm(attention.q_norm, groups)
        self.head_dim = attention.head_dim


class _GroupedMLP(nn.Module):
    def __init__(self, mlp: GatedMLP, num_groups: int) -> None:
        super().__init__()
        self.gate_proj = GroupedLinear.replicated(mlp.gate_proj, num_groups)
        self.up_proj = GroupedLinear.replicated(mlp.up_proj, num_groups)
        self.down_proj = GroupedLinear.replicated(mlp.down_proj, num_groups)

    def forward(
        self, rows: Float[Tensor, "groups rows hidden"]
    ) -> Float[Tensor, "groups rows hidden"]:
        mapped: Tensor = self.down_proj(functional.silu(self.gate_proj(rows)) * self.up_proj(rows))
        return mapped


def _stacked(weight: Tensor, num_groups: int) -> Tensor:
    return weight.detach().expand(num_groups, *weight.shape).clone()
