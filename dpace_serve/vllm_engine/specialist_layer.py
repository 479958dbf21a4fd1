"""Position specialists in the engine: the last layer of a drafter, or an adapter, once per group.

A step's rows are blocks of an anchor and its mask tokens, one after another, so a row's place in
its block says its group, whatever its position in the text. Which row belongs to which group lies
in tensors that are written when the length of blocks changes: captured graphs read them, and no
step waits for the host or walks over positions.

See `dpace_serve.drafter.specialists` for the kinds and the groups. The last group may lie beyond
the drafts that are asked for: what no draft reaches is not kept.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from vllm.model_executor.layers.linear import QKVParallelLinear
from vllm.model_executor.models.qwen3_dflash import DFlashQwen3Attention, DFlashQwen3DecoderLayer

from dpace_serve.drafter.specialists import Specialists


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """The blocks that a drafter may be asked for.

    Attributes:
        specialists: What the groups have of their own.
        max_tokens: Most rows of a step, padding included, and one more. Where a step takes all of
            a tensor, the compiler takes its size for a constant, and the engine drops the guard
            that would notice a shorter step.
        longest: Draft tokens of the longest block.
        shortest: Draft tokens of the shortest one.
    """

    specialists: Specialists
    max_tokens: int
    longest: int
    shortest: int

    @property
    def num_groups(self) -> int:
        """Groups that a draft can reach."""
        return self.specialists.num_groups(self.longest)

    def rows_per_group(self, num_tokens: int) -> int:
        """Rows that a group has at most among this many; depends on no step's own length."""
        num_blocks = (num_tokens + self.shortest) // (1 + self.shortest)
        return num_blocks * self.specialists.group_size

    def require_planned(self, num_draft_tokens: int) -> None:
        """Check that blocks of this length have their places.

        Raises:
            ValueError: If they are shorter or longer than planned.
        """
        if not self.shortest <= num_draft_tokens <= self.longest:
            raise ValueError(
                f"blocks must have {self.shortest}..{self.longest} draft tokens, got "
                f"{num_draft_tokens}."
            )


class LowRankAdapters(nn.Module):
    """Adds to each draft row what the adapter of its group makes of it; anchors stay as they are.

    All adapters compute side by side, as one that is as wide as all of them: a row lets pass what
    its own group made and nothing else.
    """

    shares: Tensor
    """1 where a row belongs to the group of an inner value, else 0: rows, groups * rank."""

    def __init__(self, plan: BlockPlan, hidden_size: int) -> None:
        super().__init__()
        self._plan = plan
        shape = (plan.num_groups * plan.specialists.rank, hidden_size)
        self.inner = nn.Parameter(torch.empty(shape), requires_grad=False)
        self.outer = nn.Parameter(torch.empty(shape), requires_grad=False)
        shares = torch.zeros(plan.max_tokens, shape[0])
        self.register_buffer("shares", shares, persistent=False)

    def follow(self, num_draft_tokens: int) -> None:
        """Take the coming rows as blocks of this many draft tokens."""
        device = self.shares.device
        index = torch.arange(self._plan.max_tokens, device=device) % (1 + num_draft_tokens)
        # Floors towards minus infinity, so the anchor's -1 is no group.
        group = torch.div(index - 1, self._plan.specialists.group_size, rounding_mode="floor")
        groups = torch.arange(self._plan.num_groups, device=device)
        of_values = groups.repeat_interleave(self._plan.specialists.rank)
        self.shares.copy_(group.unsqueeze(1) == of_values)

    def load(self, name: str, weight: Tensor) -> None:
        """Write a tensor of the checkpoint over what is there."""
        used = weight[: self._plan.num_groups]
        if name == "adapter_out.weight":
            self.outer.data.copy_(used.transpose(1, 2).flatten(0, 1))
        else:
            self.inner.data.copy_(used.flatten(0, 1))

    def forward(self, hidden: Tensor) -> Tensor:
        """Normed last hidden states, adapted: rows, hidden."""
        own = functional.linear(hidden, self.inner) * self.shares[: len(hidden)]
        return torch.addmm(hidden, own, self.outer)


class SharedAttention(nn.Module):
    """Attention of the last layer, whose queries and outputs belong to the groups.

    Has what the engine reads of a plain one, to compute the keys and values of the context.
    """

    def __init__(self, plain: DFlashQwen3Attention, plan: BlockPlan) -> None:
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
        self.q_norm = GroupedRMSNorm(plan, plain.head_dim, plain.q_norm.variance_epsilon)

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
        attended: Tensor = self.attn(queries, keys, values)
        return attended


class GroupedRMSNorm(nn.Module):
    """Root mean square 1, then a weight per group."""

    def __init__(self, plan: BlockPlan, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(plan.num_groups, size), requires_grad=False)
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

    def __init__(self, plan: BlockPlan, outputs: int, inputs: int, *, has_bias: bool) -> None:
        super().__init__()
        shape = (plan.num_groups, outputs, inputs)
        self.weight = nn.Parameter(torch.empty(shape), requires_grad=False)
        bias = torch.empty(plan.num_groups, 1, outputs) if has_bias else None
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows sorted by group, in one batched product: groups, rows, inputs."""
        weight = self.weight.transpose(1, 2)
        if self.bias is None:
            return torch.bmm(rows, weight)
        return torch.baddbmm(self.bias, rows, weight)


class SpecialistLayer(nn.Module):
    """The last layer of a drafter; takes the place of a plain one, which it is made of."""

    group: Tensor
    """Group of each row, the anchor's that of position 1."""
    slot: Tensor
    """Place of each row among those of its group; an anchor shares that of its position 1."""
    rows: Tensor
    """The rows of each group, in order: groups, places."""

    def __init__(self, plain: DFlashQwen3DecoderLayer, plan: BlockPlan, intermediate: int) -> None:
        super().__init__()
        self._plan = plan
        hidden, attention = plain.hidden_size, plain.self_attn
        has_bias = attention.qkv_proj.bias is not None
        eps = plain.input_layernorm.variance_epsilon
        self.self_attn = SharedAttention(attention, plan)
        self.input_layernorm = GroupedRMSNorm(plan, hidden, eps)
        self.post_attention_layernorm = GroupedRMSNorm(plan, hidden, eps)
        self.q_proj = GroupedLinear(plan, attention.q_size, hidden, has_bias=has_bias)
        self.o_proj = GroupedLinear(plan, hidden, attention.q_size, has_bias=has_bias)
        self.gate_up_proj = GroupedLinear(plan, 2 * intermediate, hidden, has_bias=False)
        self.down_proj = GroupedLinear(plan, hidden, intermediate, has_bias=False)
        num_rows = torch.zeros(plan.max_tokens, dtype=torch.int64)
        num_places = plan.rows_per_group(plan.max_tokens) + 1  # one more here too
        places = torch.zeros(plan.num_groups, num_places, dtype=torch.int64)
        self.register_buffer("group", num_rows, persistent=False)
        self.register_buffer("slot", num_rows.clone(), persistent=False)
        self.register_buffer("rows", places, persistent=False)

    def follow(self, num_draft_tokens: int) -> None:
        """Take the coming rows as blocks of this many draft tokens."""
        size, device = self._plan.specialists.group_size, self.group.device
        row = torch.arange(self._plan.max_tokens, device=device)
        block, index = row // (1 + num_draft_tokens), row % (1 + num_draft_tokens)
        position = (index - 1).clamp(min=0)
        self.group.copy_(position // size)
        self.slot.copy_(block * size + position % size)
        place = torch.arange(self.rows.shape[1], device=device)
        first = torch.arange(self._plan.num_groups, device=device).unsqueeze(1) * size
        index = 1 + first + place % size
        # Places that no row has hold one that is there, and nobody reads what they compute.
        index = index.clamp(max=num_draft_tokens)
        self.rows.copy_(place // size * (1 + num_draft_tokens) + index)

    def load(self, name: str, weight: Tensor) -> None:
        """Write a tensor of the checkpoint over what is there."""
        used = weight[: self._plan.num_groups]
        module_name, _, kind = name.removeprefix("self_attn.").removeprefix("mlp.").rpartition(".")
        if module_name in ("gate_proj", "up_proj"):
            gate, up = self.gate_up_proj.weight.data.chunk(2, dim=1)
            (gate if module_name == "gate_proj" else up).copy_(used)
        elif kind == "bias":
            self.get_parameter(f"{module_name}.bias").data.copy_(used.unsqueeze(1))
        else:
            owner = self.self_attn if module_name == "q_norm" else self
            owner.get_parameter(f"{module_name}.weight").data.copy_(used)

    def forward(
        self, positions: Tensor, hidden_states: Tensor, residual: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What the plain layer computes, each draft row with the weights of its group.

        An anchor's row gives its key and value; what comes out of it predicts no token.
        """
        residual = hidden_states if residual is None else hidden_states + residual
        num_tokens = len(residual)
        num_places = self._plan.rows_per_group(num_tokens)
        group = self.group[:num_tokens]
        rows = self.rows[:, :num_places].clamp(max=num_tokens - 1).flatten()
        place = group * num_places + self.slot[:num_tokens]

        normed = self.input_layernorm(residual, self.input_layernorm.weight[group])
        queries = self._normed_queries(self.q_proj(self._by_group(normed, rows)))
        attended = self.self_attn(positions, normed, queries.index_select(0, place))
        drafts = self._by_group(residual, rows) + self.o_proj(self._by_group(attended, rows))
        weight = self.post_attention_layernorm.weight.unsqueeze(1)
        gate, up = self.gate_up_proj(self.post_attention_layernorm(drafts, weight)).chunk(2, -1)
        mapped = self.down_proj(functional.silu(gate) * up)
        return (
            mapped.flatten(0, 1).index_select(0, place),
            drafts.flatten(0, 1).index_select(0, place),
        )

    def _by_group(self, hidden: Tensor, rows: Tensor) -> Tensor:
        selected = hidden.index_select(0, rows)
        return selected.view(self._plan.num_groups, -1, selected.shape[-1])

    def _normed_queries(self, queries: Tensor) -> Tensor:
        norm = self.self_attn.q_norm
        by_head = queries.unflatten(2, (-1, self.self_attn.head_dim))
        normed: Tensor = norm(by_head, norm.weight[:, None, None])
        return normed.flatten(2).flatten(0, 1)
