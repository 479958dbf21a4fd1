"""What drafters with position specialists compute group by group, in the engines that serve them.

Which row belongs to which group comes from `dpace_serve.drafter.draft_groups`. Attention, with its
cache, is each engine's own; see `dpace_serve.drafter.specialists` for the kinds and the groups.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpace_serve.drafter.draft_groups import DraftGroups, Places


class LowRankAdapters(nn.Module):
    """Adds to each draft row what its group's adapter makes of it; anchors stay as they are."""

    def __init__(self, groups: DraftGroups, hidden_size: int) -> None:
        super().__init__()
        self._groups = groups
        shape = (groups.num_groups * groups.specialists.rank, hidden_size)
        self.inner = nn.Parameter(torch.empty(shape), requires_grad=False)
        self.outer = nn.Parameter(torch.empty(shape), requires_grad=False)

    def load(self, name: str, weight: Tensor) -> None:
        """Write a tensor of the checkpoint over what is there."""
        used = weight[: self._groups.num_groups]
        if name == "adapter_out.weight":
            self.outer.data.copy_(used.transpose(1, 2).flatten(0, 1))
        else:
            self.inner.data.copy_(used.flatten(0, 1))

    def forward(self, hidden: Tensor, shares: Tensor) -> Tensor:
        """Normed last hidden states, adapted: rows, hidden.

        All adapters compute side by side, as one that is as wide as all of them: a row lets pass
        what its own group made and nothing else.

        Args:
            hidden: Normed last hidden states: rows, hidden.
            shares: 1 where a row belongs to the group of an inner value, else 0: rows,
                groups * rank.
        """
        own = functional.linear(hidden, self.inner) * shares
        return torch.addmm(hidden, own, self.outer)

    def row_by_row(self, hidden: Tensor, adapted_groups: Tensor) -> Tensor:
        """The same without a call of a matrix product, each row by its own adapter alone.

        For a compiler that makes one loop of it; without one it copies an adapter for every row.

        Args:
            hidden: Normed last hidden states: rows, hidden.
            adapted_groups: Group of each row, -1 for none: rows.
        """
        of_row = adapted_groups.clamp(min=0)
        shape = (self._groups.num_groups, -1, hidden.shape[1])
        inner, outer = (each.view(shape)[of_row].float() for each in (self.inner, self.outer))
        own = (hidden.float().unsqueeze(1) * inner).sum(2) * (adapted_groups >= 0).unsqueeze(1)
        return (hidden.float() + (own.unsqueeze(2) * outer).sum(1)).to(hidden.dtype)


class GroupedRMSNorm(nn.Module):
    """Root mean square 1, then a weight per group."""

    def __init__(self, groups: DraftGroups, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups.num_groups, size), requires_grad=False)
        self.variance_epsilon = eps

    def forward(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Normalise the last axis.

        Args:
            rows: What is normalised.
            weight: The weights of its groups, in a shape that fits.
        """
        normed = functional.rms_norm(rows, rows.shape[-1:], eps=self.variance_epsilon)
        return normed * weight


class GroupedLinear(nn.Module):
    """A linear map per group."""

    def __init__(self, groups: DraftGroups, outputs: int, inputs: int, *, has_bias: bool) -> None:
        super().__init__()
        shape = (groups.num_groups, outputs, inputs)
        self.weight = nn.Parameter(torch.empty(shape), requires_grad=False)
        bias = torch.empty(groups.num_groups, 1, outputs) if has_bias else None
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows sorted by group, in one batched product: groups, rows, inputs."""
        weight = self.weight.transpose(1, 2)
        if self.bias is None:
            return torch.bmm(rows, weight)
        return torch.baddbmm(self.bias, rows, weight)


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """Sizes of a drafter's layer.

    Attributes:
        hidden: Width of the residual stream.
        queries: Query heads * head_dim.
        head_dim: Width of a head.
        intermediate: Inner width of the MLP.
        eps: What the norms add to a mean square.
        has_bias: Whether the projections of the attention add a bias.
    """

    hidden: int
    queries: int
    head_dim: int
    intermediate: int
    eps: float
    has_bias: bool


class GroupedLayer(nn.Module):
    """The last layer of a drafter around its attention, once per group."""

    def __init__(self, groups: DraftGroups, sizes: LayerSizes, attention: nn.Module) -> None:
        """Make room for the weights.

        Args:
            groups: Groups of the blocks.
            sizes: Sizes of the plain layer.
            attention: The engine's, with keys and values that all groups share. It gets the norm
                of the queries as `q_norm`, where engines look for it.
        """
        super().__init__()
        self._groups, self._head_dim = groups, sizes.head_dim
        hidden, inner, has_bias = sizes.hidden, sizes.intermediate, sizes.has_bias
        attention.q_norm = GroupedRMSNorm(groups, sizes.head_dim, sizes.eps)
        self.self_attn = attention
        self.input_layernorm = GroupedRMSNorm(groups, hidden, sizes.eps)
        self.post_attention_layernorm = GroupedRMSNorm(groups, hidden, sizes.eps)
        self.q_proj = GroupedLinear(groups, sizes.queries, hidden, has_bias=has_bias)
        self.o_proj = GroupedLinear(groups, hidden, sizes.queries, has_bias=has_bias)
        self.gate_up_proj = GroupedLinear(groups, 2 * inner, hidden, has_bias=False)
        self.down_proj = GroupedLinear(groups, hidden, inner, has_bias=False)

    def load(self, name: str, weight: Tensor) -> None:
        """Write a tensor of the checkpoint over what is there."""
        used = weight[: self._groups.num_groups]
        module_name, _, kind = name.removeprefix("self_attn.").removeprefix("mlp.").rpartition(".")
        if module_name in ("gate_proj", "up_proj"):
            gate, up = self.gate_up_proj.weight.data.chunk(2, dim=1)
            (gate if module_name == "gate_proj" else up).copy_(used)
        elif kind == "bias":
            self.get_parameter(f"{module_name}.bias").data.copy_(used.unsqueeze(1))
        else:
            owner = self.self_attn if module_name == "q_norm" else self
            owner.get_parameter(f"{module_name}.weight").data.copy_(used)

    def before_attention(self, residual: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """What the attention is given.

        Args:
            residual: The residual stream before this layer: rows, hidden.
            places: Which row belongs to which group.

        Returns:
            What keys and values are made of (rows, hidden), and queries, normed and not rotated
            (rows, heads * head_dim).
        """
        normed = self.input_layernorm(residual, self.input_layernorm.weight[places.group])
        queries = self._normed_queries(self.q_proj(self._by_group(normed, places)))
        return normed, queries.index_select(0, places.place)

    def after_attention(
        self, residual: Tensor, attended: Tensor, places: Places
    ) -> tuple[Tensor, Tensor]:
        """What the layer adds last, and the residual stream before that: rows, hidden, both.

        What comes out of an anchor's row predicts no token.

        Args:
            residual: The residual stream before this layer: rows, hidden.
            attended: What the attention gave: rows, heads * head_dim.
            places: Which row belongs to which group.
        """
        drafts = self._by_group(residual, places) + self.o_proj(self._by_group(attended, places))
        weight = self.post_attention_layernorm.weight.unsqueeze(1)
        gate, up = self.gate_up_proj(self.post_attention_layernorm(drafts, weight)).chunk(2, -1)
        mapped = self.down_proj(functional.silu(gate) * up)
        return (
            mapped.flatten(0, 1).index_select(0, places.place),
            drafts.flatten(0, 1).index_select(0, places.place),
        )

    def _by_group(self, hidden: Tensor, places: Places) -> Tensor:
        selected = hidden.index_select(0, places.rows)
        return selected.view(self._groups.num_groups, -1, selected.shape[-1])

    def _normed_queries(self, queries: Tensor) -> Tensor:
        norm = cast(GroupedRMSNorm, self.self_attn.q_norm)
        by_head = queries.unflatten(2, (-1, self._head_dim))
        normed: Tensor = norm(by_head, norm.weight[:, None, None])
        return normed.flatten(2).flatten(0, 1)
