"""SGLang's model of a drafter with position specialists: its own, the last part replaced.

SGLang drafts blocks of one length always, one after another, so the rows of a step say where each
group lies. Nothing is kept from step to step: captured graphs work the places out again.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.layers.logits_processor import LogitsProcessorOutput
from sglang.srt.models.dflash import DFlashAttention, DFlashDecoderLayer, DFlashDraftModel
from sglang.srt.runtime_context import get_parallel
from sglang.srt.utils import is_npu
from torch import Tensor, nn
from typing_extensions import override

from dpace_serve.drafter.draft_groups import DraftGroups
from dpace_serve.drafter.grouped_layers import (
    GroupedLayer,
    GroupedRMSNorm,
    LayerSizes,
    LowRankAdapters,
)
from dpace_serve.drafter.specialists import SECTION, read_specialists
from dpace_serve.errors import ConfigError
from dpace_serve.sglang_engine.start_checks import require_undivided

if TYPE_CHECKING:
    from sglang.srt.layers.quantization.base_config import QuantizationConfig
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from transformers import PretrainedConfig

_PREFIX = f"{SECTION}."


class SharedAttention(nn.Module):
    """Attention of the last layer, whose queries and outputs belong to the groups.

    Has what SGLang's worker asks of a plain one, to compute the keys and values of the context.
    """

    q_norm: GroupedRMSNorm

    def __init__(self, plain: DFlashAttention) -> None:
        super().__init__()
        self.attn, self.rotary_emb, self.k_norm = plain.attn, plain.rotary_emb, plain.k_norm
        self.head_dim, self.num_kv_heads = plain.head_dim, plain.num_kv_heads
        self.v_scale = plain.v_scale
        has_bias = plain.qkv_proj.bias is not None
        # Under the names of the checkpoint, by which SGLang finds them where none are fused.
        self.k_proj = nn.Linear(plain.hidden_size, plain.kv_size, bias=has_bias)
        self.v_proj = nn.Linear(plain.hidden_size, plain.kv_size, bias=has_bias)

    def forward(
        self, positions: Tensor, normed: Tensor, queries: Tensor, forward_batch: "ForwardBatch"
    ) -> Tensor:
        """Let rows look at the context and their block.

        Args:
            positions: Positions in the text: rows.
            normed: What keys and values are made of: rows, hidden.
            queries: Normed and not rotated: rows, heads * head_dim.
            forward_batch: Where the context lies in the cache.
        """
        keys, values = self.kv_proj_only(normed)
        queries, keys = self.rotary_emb(positions, queries, self.apply_k_norm(keys))
        attended: Tensor = self.attn(queries, keys, values, forward_batch)
        return attended

    def kv_proj_only(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, neither normed nor rotated, and values: rows, key-value heads * head_dim."""
        values = self.v_proj(hidden_states)
        return self.k_proj(hidden_states), values if self.v_scale is None else values * self.v_scale

    def apply_k_norm(self, k: Tensor) -> Tensor:
        """Keys, normed head by head."""
        normed: Tensor = self.k_norm(k.reshape(-1, self.head_dim))
        return normed.view(k.shape)

    def apply_k_rope(self, positions: Tensor, k: Tensor) -> Tensor:
        """Keys, rotated; the function takes queries too, so it is given as many of no value."""
        rotated: Tensor = self.rotary_emb(positions, torch.empty_like(k), k)[1]
        return rotated


class SpecialistLayer(GroupedLayer):
    """The last layer of a drafter; takes the place of a plain one, which it is made of."""

    attention_conv: None = None  # SGLang asks every layer for its convolutions
    mlp_conv: None = None

    def __init__(self, plain: DFlashDecoderLayer, groups: DraftGroups, intermediate: int) -> None:
        attention = plain.self_attn
        sizes = LayerSizes(
            hidden=attention.hidden_size,
            queries=attention.q_size,
            head_dim=attention.head_dim,
            intermediate=intermediate,
            eps=plain.input_layernorm.variance_epsilon,
            has_bias=attention.qkv_proj.bias is not None,
        )
        super().__init__(groups, sizes, SharedAttention(attention))

    @override
    def forward(
        self,
        positions: Tensor,
        hidden_states: Tensor,
        forward_batch: "ForwardBatch",
        residual: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """What the plain layer computes, each draft row with the weights of its group.

        An anchor's row gives its key and value; what comes out of it predicts no token.
        """
        residual = hidden_states if residual is None else hidden_states + residual
        num_tokens, groups = len(residual), self._groups
        if not num_tokens:
            return hidden_states, residual
        table = groups.table(
            groups.longest,
            num_rows=num_tokens,
            num_places=groups.rows_per_group(num_tokens),
            device=residual.device,
        )
        places = groups.places(table, num_tokens)
        normed, queries = self.before_attention(residual, places)
        attended = self.self_attn(positions, normed, queries, forward_batch)
        return self.after_attention(residual, attended, places)


class SpecialistDraftModel(DFlashDraftModel):
    """A drafter whose draft positions have parameters of their own, in groups.

    With kind `last_layer` SGLang's fused projection of the context is off: it stacks the weights
    of all layers, norms of queries among them, and the last layer has others. Each layer's keys
    and values of the context are then computed in turn.
    """

    def __init__(
        self,
        config: "PretrainedConfig",
        quant_config: "QuantizationConfig | None" = None,
        prefix: str = "",
    ) -> None:
        require_undivided(
            config.name_or_path,
            tp_size=get_parallel().tp_size,
            quantization=None if quant_config is None else quant_config.get_name(),
        )
        super().__init__(config=config, quant_config=quant_config, prefix=prefix)
        specialists = read_specialists(config.to_dict())
        if specialists is None:
            raise ConfigError(
                f"this architecture needs the section {SECTION} in config.json, got none. Put the "
                "config.json of this drafter beside its weights."
            )
        num_draft_tokens = self.block_size - 1
        self._groups = DraftGroups(specialists, num_draft_tokens, num_draft_tokens)
        self.adapters: LowRankAdapters | None = None
        if specialists.kind == "low_rank":
            self.adapters = LowRankAdapters(self._groups, config.hidden_size)
        else:
            if is_npu():
                raise ConfigError(
                    "position specialists of kind last_layer cannot be had on an NPU, where SGLang "
                    "computes a layer's queries and keys in one piece. Serve them on a GPU."
                )
            plain = self.layers[-1]
            self.layers[-1] = SpecialistLayer(plain, self._groups, config.intermediate_size)
            self.supports_fused_context_kv = False

    @override
    def set_block_size(self, block_size: int) -> None:
        """Check that blocks are as long as those of the checkpoint.

        Raises:
            ConfigError: If they are not: a group would draft for positions of another.
        """
        if block_size != self._groups.longest + 1:
            raise ConfigError(
                f"position specialists need blocks of {self._groups.longest + 1} with SGLang, as "
                f"in their config.json, got {block_size}. Give --speculative-dflash-block-size so."
            )
        super().set_block_size(block_size)

    @override
    def forward(  # the worker's runner looks for each of these names
        self,
        input_ids: Tensor,
        positions: Tensor,
        forward_batch: "ForwardBatch",
        input_embeds: Tensor | None = None,
        get_embedding: bool = False,
        pp_proxy_tensors: Any = None,
    ) -> LogitsProcessorOutput:
        """Last hidden states of all rows; those of anchors predict nothing."""
        output: LogitsProcessorOutput = super().forward(
            input_ids, positions, forward_batch, input_embeds, get_embedding, pp_proxy_tensors
        )
        if self.adapters is not None:
            hidden, groups = output.hidden_states, self._groups
            adapted = groups.adapted_groups(
                groups.longest, num_rows=len(hidden), device=hidden.device
            )
            output.hidden_states = self.adapters(hidden, groups.shares(adapted))
        return output

    @override
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load the shared tensors as SGLang does, and the stacked ones here."""
        own: LowRankAdapters | SpecialistLayer = self.adapters or self.layers[-1]

        def shared() -> Iterable[tuple[str, Tensor]]:
            for name, weight in weights:
                if name.startswith(_PREFIX):
                    own.load(name.removeprefix(_PREFIX), weight)
                else:
                    yield name, weight

        super().load_weights(shared())
