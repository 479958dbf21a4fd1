"""DrafterConfig: what `config.json` says about a drafter, and the rules it must keep."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from dpace_serve.drafter.config_keys import ARCHITECTURE, FULL_ATTENTION, MODEL_TYPE, check_keys
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

    @property
    def num_draft_tokens(self) -> int:
        """Draft tokens of a full block: all its positions but the anchor."""
        return self.block_size - 1

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the z-lab layout's `config.json`.

        Raises:
            CheckpointError: If a key is missing, unknown, or asks for something not supported.
        """
        dflash = check_keys(values)
        rope = values.get("rope_parameters") or {}
        facts = values.get("dpace") or {}
        hidden_size = _whole("hidden_size", values)
        return cls(
            hidden_size=hidden_size,
            intermediate_size=_whole("intermediate_size", values),
            num_hidden_layers=_whole("num_hidden_layers", values),
            num_attention_heads=_whole("num_attention_heads", values),
            num_key_value_heads=_whole("num_key_value_heads", values),
            head_dim=_whole("head_dim", values),
            rms_norm_eps=_number("rms_norm_eps", values),
            # Left out, transformers takes 10000 and other readers 1000000: no default is safe.
            rope_theta=_number("rope_theta", values, rope),
            max_position_embeddings=_whole("max_position_embeddings", values),
            vocab_size=_whole("vocab_size", values),
            block_size=_whole("block_size", values, dflash),
            mask_token_id=_whole("mask_token_id", dflash),
            target_layer_ids=_layer_ids(dflash),
            num_target_layers=_whole("num_target_layers", values),
            target_hidden_size=(
                hidden_size
                if values.get("target_hidden_size") is None
                else _whole("target_hidden_size", values)
            ),
            attention_bias=_flag("attention_bias", values),
            objective=_fact("objective", facts),
            target_name=_fact("target", facts),
            target_revision=_fact("target_revision", facts),
            enable_thinking=(
                None if facts.get("enable_thinking") is None else _flag("enable_thinking", facts)
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """The z-lab layout's `config.json`, as both engines load it."""
        written = {
            "architectures": [ARCHITECTURE],
            "model_type": MODEL_TYPE,
            "hidden_act": "silu",
            "layer_types": [FULL_ATTENTION] * self.num_hidden_layers,
            "use_sliding_window": False,
            # transformers 5 reads rope_parameters, older readers the key at the top level.
            "rope_parameters": {"rope_theta": float(self.rope_theta), "rope_type": "default"},
            "rope_theta": float(self.rope_theta),
            "rms_norm_eps": float(self.rms_norm_eps),
            "attention_bias": self.attention_bias,
            "block_size": self.block_size,
            "dflash_config": {
                "mask_token_id": self.mask_token_id,
                "target_layer_ids": list(self.target_layer_ids),
            },
        }
        written |= {name: getattr(self, name) for name in _SIZES if name != "target_hidden_size"}
        facts = {
            "objective": self.objective,
            "target": self.target_name,
            "target_revision": self.target_revision,
            "enable_thinking": self.enable_thinking,
        }
        known_facts = {key: fact for key, fact in facts.items() if fact is not None}
        return written | ({"dpace": known_facts} if known_facts else {})


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


def _given(key: str, places: tuple[Mapping[str, Any], ...]) -> object:
    """The one value of a key that may stand in several places."""
    found = [place[key] for place in places if place.get(key) is not None]
    if not found:
        raise CheckpointError(
            f"{key} must be given, it is missing. Write what the drafter was trained with."
        )
    if any(value != found[0] for value in found[1:]):
        raise CheckpointError(
            f"{key} must be the same in both places, got {found[0]!r} and {found[1]!r}."
            " Keep the one the drafter was trained with."
        )
    return found[0]


def _whole(key: str, *places: Mapping[str, Any]) -> int:
    value = _given(key, places)
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(
            f"{key} must be a whole number, got {value!r}. Correct it in config.json."
        )
    return value


def _number(key: str, *places: Mapping[str, Any]) -> float:
    value = _given(key, places)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CheckpointError(f"{key} must be a number, got {value!r}. Correct it in config.json.")
    return float(value)


def _flag(key: str, values: Mapping[str, Any]) -> bool:
    value = values.get(key)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(
            f"{key} must be true or false, got {value!r}. Correct it in config.json."
        )
    return bool(value)


def _layer_ids(dflash: Mapping[str, Any]) -> tuple[int, ...]:
    ids = _given("target_layer_ids", (dflash,))
    if not isinstance(ids, list):
        raise CheckpointError(
            f"target_layer_ids must be a list, got {ids!r}. Correct it in config.json."
        )
    return tuple(_whole("target_layer_ids", {"target_layer_ids": layer_id}) for layer_id in ids)


def _fact(key: str, facts: Mapping[str, Any]) -> str | None:
    fact = facts.get(key)
    if fact is not None and not isinstance(fact, str):
        raise CheckpointError(f"dpace.{key} must be text, got {fact!r}. Correct config.json.")
    return fact
