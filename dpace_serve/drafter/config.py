"""DrafterConfig: what `config.json` says about a drafter, and the rules it must keep."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from dpace_serve.drafter.config_keys import (
    ARCHITECTURE,
    MODEL_TYPE,
    SPECIALIST_ARCHITECTURE,
    check_keys,
)
from dpace_serve.drafter.config_values import (
    fact,
    flag,
    num_layers,
    number,
    whole,
    whole_list,
)
from dpace_serve.drafter.rope import Rope, RopeScaling, read_rope
from dpace_serve.drafter.sliding import FULL_ATTENTION, SlidingAttention, read_sliding
from dpace_serve.drafter.specialists import SECTION, Specialists, read_specialists
from dpace_serve.errors import CheckpointError

_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "vocab_size",
    "num_target_layers",
    "target_hidden_size",
)


@dataclass(frozen=True, slots=True)
class DrafterConfig:
    """Shape and conventions of one drafter; every instance keeps the rules below.

    Layer ids count the target's decoder layers from 0: id i is the output of layer i.

    Raises:
        CheckpointError: If a value breaks a rule; the text says rule, value and cure.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    vocab_size: int
    block_size: int
    mask_token_id: int
    target_layer_ids: tuple[int, ...]
    num_target_layers: int
    target_hidden_size: int
    attention_bias: bool = False
    partial_rotary_factor: float = 1.0
    """Share of each head's dimensions that rotates, from the first."""
    rope_scaling: RopeScaling | None = None
    sliding: SlidingAttention | None = None
    """Layers that see only a window; none where all see everything."""
    specialists: Specialists | None = None
    """What groups of draft positions have of their own; none in a plain drafter."""
    objective: str | None = None
    """Name of the training objective, where it was recorded."""
    target_name: str | None = None
    target_revision: str | None = None
    enable_thinking: bool | None = None
    """What the target's chat template was told about thinking in training; None: nothing."""

    def __post_init__(self) -> None:
        _check_sizes(self)
        _check_rotation(self)
        _check_block(self)
        _check_taps(self)
        if self.sliding is not None:
            self.sliding.check(num_hidden_layers=self.num_hidden_layers, block_size=self.block_size)
        if self.specialists is not None:
            self.specialists.check(
                num_draft_tokens=self.num_draft_tokens, hidden_size=self.hidden_size
            )

    @property
    def num_draft_tokens(self) -> int:
        """Draft tokens of a full block: all its positions but the anchor."""
        return self.block_size - 1

    @property
    def rope(self) -> Rope:
        """The rotation: base, share of a head and scaling."""
        return Rope(self.rope_theta, self.partial_rotary_factor, self.rope_scaling)

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a head that rotate."""
        return int(self.head_dim * self.partial_rotary_factor)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the z-lab layout's `config.json`.

        Raises:
            CheckpointError: If a key is missing, unknown, or asks for something not supported.
        """
        dflash = check_keys(values)
        rope = read_rope(values)
        facts = values.get("dpace") or {}
        hidden_size = whole("hidden_size", values)
        num_hidden_layers = num_layers("num_hidden_layers", values)
        return cls(
            hidden_size=hidden_size,
            intermediate_size=whole("intermediate_size", values),
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=whole("num_attention_heads", values),
            num_key_value_heads=whole("num_key_value_heads", values),
            head_dim=whole("head_dim", values),
            rms_norm_eps=number("rms_norm_eps", values),
            rope_theta=rope.theta,
            partial_rotary_factor=rope.partial_rotary_factor,
            rope_scaling=rope.scaling,
            sliding=read_sliding(values, dflash, num_hidden_layers=num_hidden_layers),
            specialists=read_specialists(values),
            max_position_embeddings=whole("max_position_embeddings", values),
            vocab_size=whole("vocab_size", values),
            block_size=whole("block_size", values, dflash),
            mask_token_id=whole("mask_token_id", dflash),
            target_layer_ids=whole_list("target_layer_ids", dflash),
            num_target_layers=num_layers("num_target_layers", values),
            target_hidden_size=(
                hidden_size
                if values.get("target_hidden_size") is None
                else whole("target_hidden_size", values)
            ),
            attention_bias=flag("attention_bias", values),
            objective=fact("objective", facts),
            target_name=fact("target", facts),
            target_revision=fact("target_revision", facts),
            enable_thinking=(
                None if facts.get("enable_thinking") is None else flag("enable_thinking", facts)
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """The z-lab layout's `config.json`, as both engines load it."""
        dflash: dict[str, Any] = {
            "mask_token_id": self.mask_token_id,
            "target_layer_ids": list(self.target_layer_ids),
        }
        if self.sliding is not None and not self.sliding.is_causal:
            # Left out, both engines make layers with a window causal.
            dflash["causal"] = False
        written: dict[str, Any] = {
            "architectures": [ARCHITECTURE],
            "model_type": MODEL_TYPE,
            "hidden_act": "silu",
            # transformers 5 reads rope_parameters, older readers the key at the top level.
            "rope_parameters": self.rope_parameters(),
            "rope_theta": float(self.rope_theta),
            "rms_norm_eps": float(self.rms_norm_eps),
            "attention_bias": self.attention_bias,
            "block_size": self.block_size,
            "dflash_config": dflash,
        }
        written |= {name: getattr(self, name) for name in _SIZES if name != "target_hidden_size"}
        written |= self._attention_keys()
        if self.specialists is not None:
            # A name of its own: an engine that takes this for a plain drafter must not load it.
            written |= {
                "architectures": [SPECIALIST_ARCHITECTURE],
                SECTION: self.specialists.to_dict(),
            }
        facts = {
            "objective": self.objective,
            "target": self.target_name,
            "target_revision": self.target_revision,
            "enable_thinking": self.enable_thinking,
        }
        known_facts = {key: fact for key, fact in facts.items() if fact is not None}
        return written | ({"dpace": known_facts} if known_facts else {})

    def rope_parameters(self) -> dict[str, Any]:
        """The rotation as transformers 5 describes it."""
        return self.rope.to_dict()

    def _attention_keys(self) -> dict[str, Any]:
        if self.sliding is None:
            types = [FULL_ATTENTION] * self.num_hidden_layers
            return {"layer_types": types, "use_sliding_window": False}
        return {
            "layer_types": self.sliding.layer_types(self.num_hidden_layers),
            # transformers drops the window's size beside anything but true.
            "use_sliding_window": True,
            "sliding_window": self.sliding.window,
        }


def _check_sizes(config: DrafterConfig) -> None:
    for name in _SIZES:
        size = getattr(config, name)
        if size < 1:
            raise CheckpointError(
                f"{name} must be at least 1, got {size}. Correct it in config.json."
            )
    if config.num_attention_heads % config.num_key_value_heads:
        raise CheckpointError(
            f"num_attention_heads must be a multiple of num_key_value_heads"
            f" = {config.num_key_value_heads}, got {config.num_attention_heads}."
            " Correct them in config.json."
        )
    if config.target_hidden_size != config.hidden_size:
        raise CheckpointError(
            f"hidden_size must equal target_hidden_size = {config.target_hidden_size}, because a"
            f" drafter uses its target's embedding and head, got {config.hidden_size}."
            " Retrain with the target's hidden size."
        )


def _check_rotation(config: DrafterConfig) -> None:
    for name in ("rms_norm_eps", "rope_theta"):
        number = getattr(config, name)
        if not math.isfinite(number) or number <= 0:
            raise CheckpointError(
                f"{name} must be a positive number, got {number}. Correct it in config.json."
            )
    if config.head_dim % 2:
        raise CheckpointError(
            f"head_dim must be even, because rotation works on pairs, got {config.head_dim}."
            " Correct it in config.json."
        )
    if not 0 < config.partial_rotary_factor <= 1 or config.rotary_dim < 2 or config.rotary_dim % 2:
        raise CheckpointError(
            "partial_rotary_factor must make an even number of at least 2 of the"
            f" {config.head_dim} dimensions of a head rotate, got {config.partial_rotary_factor}."
            " Correct it in config.json."
        )
    scaling = config.rope_scaling
    if scaling is not None and scaling.rope_type == "yarn":
        # vLLM's table of angles ends there (yarn_scaling_rope.py), and it reads past it unchecked.
        longest = scaling.factor * (scaling.original_max_position_embeddings or 0)
        if config.max_position_embeddings > longest:
            raise CheckpointError(
                f"max_position_embeddings must be at most factor x original = {longest:g} with"
                f" yarn, got {config.max_position_embeddings}. Correct it in config.json."
            )


def _check_block(config: DrafterConfig) -> None:
    if config.block_size < 2:
        raise CheckpointError(
            "block_size must be at least 2 (the anchor and one draft token),"
            f" got {config.block_size}. Write the block size the drafter was trained with."
        )
    if not 0 <= config.mask_token_id < config.vocab_size:
        raise CheckpointError(
            f"mask_token_id must be a token id below vocab_size = {config.vocab_size},"
            f" got {config.mask_token_id}. Write the id the drafter was trained with."
        )


def _check_taps(config: DrafterConfig) -> None:
    ids, end = config.target_layer_ids, config.num_target_layers
    cure = "Write the layers the drafter was trained on, counted from 0."
    if not ids:
        raise CheckpointError(f"target_layer_ids must name a target layer, got none. {cure}")
    outside = [layer_id for layer_id in ids if not 0 <= layer_id < end]
    if outside:
        raise CheckpointError(
            f"target_layer_ids must lie in 0..{end - 1} (num_target_layers is {end}),"
            f" got {outside[0]}. {cure}"
        )
    # Engines gather the taps in layer order, whatever the order here: fc would mix them up.
    if any(later <= earlier for earlier, later in pairwise(ids)):
        raise CheckpointError(
            f"target_layer_ids must rise without repeating, got {list(ids)}. {cure}"
        )
