"""The parts of a plain layer of the drafter: norm, attention with its projections, feed-forward."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dpace_serve.drafter.checkpoint import DrafterConfig
from dpace_training.drafter.attention import Attention
from dpace_training.drafter.rotary import Angles, rotate

KeysAndValues = tuple[Tensor, Tensor]


def normalised(rows: Float[Tensor, "*rows size"], eps: float) -> Float[Tensor, "*rows size"]:
    """Rows of root mean square 1, worked out in float32 or wider."""
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return (wide * scale).to(rows.dtype)


def split_heads(
    rows: Float[Tensor, "*rows size"], head_dim: int
) -> Float[Tensor, "*rows heads head_dim"]:
    """The heads that lie side by side in a row."""
    return rows.view(*rows.shape[:-1], rows.shape[-1] // head_dim, head_dim)


class RMSNorm(nn.Module):
    """Scale each row to root mean square 1, in float32 or wider, then by a learned weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, rows: Float[Tensor, "*rows size"]) -> Float[Tensor, "*rows size"]:
        """Normalise the last axis."""
        return normalised(rows, self.eps) * self.weight


class BlockAttention(nn.Module):
    """Projections, per-head norms and rotary positions around attention."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        has_bias = config.attention_bias
        query_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=has_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=has_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=has_bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=has_bias)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def read_context(
        self, context: Float[Tensor, "documents tokens hidden"], context_angles: Angles
    ) -> KeysAndValues:
        """Keys, rotated, and values of the context; they depend on no block."""
        keys = rotate(self.k_norm(self._heads(self.k_proj(context))), *context_angles)
        return keys, self._heads(self.v_proj(context))

    def forward(
        self,
        hidden: Float[Tensor, "documents blocks block_size hidden"],
        context: KeysAndValues,
        block_angles: Angles,
        attend: Attention,
    ) -> Float[Tensor, "documents blocks block_size hidden"]:
        """Let block tokens look at their context and their own block."""
        attended = attend(
            rotate(self.q_norm(self._heads(self.q_proj(hidden))), *block_angles),
            *context,
            rotate(self.k_norm(self._heads(self.k_proj(hidden))), *block_angles),
            self._heads(self.v_proj(hidden)),
        )
        projected: Tensor = self.o_proj(attended)
        return projected

    def _heads(self, rows: Float[Tensor, "*rows size"]) -> Float[Tensor, "*rows heads head_dim"]:
        return split_heads(rows, self.head_dim)


class GatedMLP(nn.Module):
    """SwiGLU feed-forward part."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows hidden"]:
        """Map each row on its own."""
        mapped: Tensor = self.down_proj(
            functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden)
        )
        return mapped


class DrafterLayer(nn.Module):
    """One layer of the drafter; only block tokens pass its norms, the context does not."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.self_attn = BlockAttention(config)
        self.mlp = GatedMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def read_context(
        self, context: Float[Tensor, "documents tokens hidden"], context_angles: Angles
    ) -> KeysAndValues:
        """Keys, rotated, and values of the context in this layer."""
        return self.self_attn.read_context(context, context_angles)

    def forward(
        self,
        hidden: Float[Tensor, "documents blocks block_size hidden"],
        context: KeysAndValues,
        block_angles: Angles,
        attend: Attention,
    ) -> Float[Tensor, "documents blocks block_size hidden"]:
        """Add attention, then the feed-forward part, to the residual stream."""
        hidden = hidden + self.self_attn(
            self.input_layernorm(hidden), context, block_angles, attend
        )
        mapped: Tensor = self.mlp(self.post_attention_layernorm(hidden))
        return hidden + mapped
