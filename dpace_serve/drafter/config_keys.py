"""Which keys of a drafter's `config.json` are understood, and which values would change the maths.

An engine ignores a key it does not know, and so would our training model: the two would then
compute different things without a word. So the set of keys is closed.
"""

import json
from collections.abc import Mapping
from typing import Any

from dpace_serve.errors import CheckpointError

ARCHITECTURE = "DFlashDraftModel"
MODEL_TYPE = "qwen3"
FULL_ATTENTION = "full_attention"

_USED = frozenset({
    "architectures", "attention_bias", "block_size", "dflash_config", "dpace", "head_dim",
    "hidden_size", "intermediate_size", "layer_types", "max_position_embeddings", "model_type",
    "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "num_target_layers",
    "rms_norm_eps", "rope_parameters", "rope_theta", "target_hidden_size", "vocab_size",
})  # fmt: skip
_WITHOUT_EFFECT = frozenset({
    "_name_or_path", "attention_dropout", "auto_map", "bos_token_id", "dtype", "eos_token_id",
    "initializer_range", "max_window_layers", "pad_token_id", "tie_word_embeddings",
    "torch_dtype", "transformers_version", "use_cache",
})  # fmt: skip
_ONLY_VALUE: dict[str, object] = {
    "add_swa_attention_sink_bias": False,
    "has_own_lm_head": False,
    "hidden_act": "silu",
    "is_causal": False,
    "is_neox_style": True,
    "logit_scale": 1.0,
    "partial_rotary_factor": 1.0,
    "rope_is_neox_style": True,
    # transformers prefers it to rope_parameters, even to take only a default from it.
    "rope_scaling": None,
    "use_aux_hidden_state": True,
    "use_sliding_window": False,
}
_DFLASH_USED = frozenset({"block_size", "mask_token_id", "target_layer_ids"})
_DFLASH_ONLY_VALUE: dict[str, object] = {
    "attention_sink_bias": False,
    "attention_value_scale": 1.0,
    "causal": False,
    "sample_from_anchor": False,
    "use_aux_hidden_state": True,
    "use_swa": False,
}
_ROPE_ONLY_VALUE: dict[str, object] = {
    "partial_rotary_factor": 1.0,
    "rope_type": "default",
    "type": "default",
}
_FACTS = frozenset({"enable_thinking", "objective", "target", "target_revision"})


def check_keys(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse every key that is unknown or asks for a computation that is not supported.

    Returns:
        The `dflash_config` group.

    Raises:
        CheckpointError: On the first such key.
    """
    _check_architecture(values)
    _check_windows(values)
    _check_draft_vocabulary(values)
    handled = {"sliding_window", "draft_vocab_size"}
    _check_group(values, "", _USED | _WITHOUT_EFFECT | handled, _ONLY_VALUE)
    rope = _group(values, "rope_parameters")
    _check_group(rope, "rope_parameters", frozenset({"rope_theta"}), _ROPE_ONLY_VALUE)
    _check_group(_group(values, "dpace"), "dpace", _FACTS, {})
    dflash = _group(values, "dflash_config")
    _check_group(dflash, "dflash_config", _DFLASH_USED, _DFLASH_ONLY_VALUE)
    return dflash


def _check_architecture(values: Mapping[str, Any]) -> None:
    architectures = values.get("architectures")
    if architectures != [ARCHITECTURE]:
        raise CheckpointError(
            f'architectures must be ["{ARCHITECTURE}"] (the z-lab layout), got {architectures!r}.'
            " Give a DFlash drafter, or convert it to that layout first."
        )
    if values.get("model_type") != MODEL_TYPE:
        raise CheckpointError(
            f'model_type must be "{MODEL_TYPE}", got {values.get("model_type")!r}.'
            " Give a drafter with Qwen3 layers."
        )


def _check_windows(values: Mapping[str, Any]) -> None:
    types = values.get("layer_types")
    if types is not None:
        if not isinstance(types, list) or any(kind != FULL_ATTENTION for kind in types):
            raise CheckpointError(
                f"layer_types must all be {FULL_ATTENTION}, got {types!r}."
                " Sliding windows are not supported: give a drafter trained without."
            )
        num_layers = values.get("num_hidden_layers", len(types))
        if len(types) != num_layers:
            raise CheckpointError(
                f"layer_types must have one entry per layer (num_hidden_layers is {num_layers!r}),"
                f" got {len(types)}. Correct config.json."
            )
    window = values.get("sliding_window")
    # transformers writes a window size that it does not use beside an explicit `false`.
    if window is not None and values.get("use_sliding_window") is not False:
        raise CheckpointError(
            f"sliding_window must be null, got {window!r}. Sliding windows are not supported:"
            " give a drafter trained without, or set use_sliding_window to false if it was."
        )


def _check_draft_vocabulary(values: Mapping[str, Any]) -> None:
    draft_vocab_size = values.get("draft_vocab_size")
    if draft_vocab_size not in (None, values.get("vocab_size")):
        raise CheckpointError(
            f"draft_vocab_size must equal vocab_size = {values.get('vocab_size')!r},"
            f" got {draft_vocab_size!r}. A reduced vocabulary is not supported: give a drafter"
            " with the full one."
        )


def _check_group(
    values: Mapping[str, Any],
    group: str,
    free: frozenset[str] | set[str],
    only_value: Mapping[str, object],
) -> None:
    for key, value in values.items():
        if key in free or value is None:
            continue
        name = f"{group}.{key}" if group else key
        if key not in only_value:
            raise CheckpointError(
                f"{name} is not a known key, got {_short(value)}."
                " Remove it if the drafter was trained without it; otherwise it is not supported."
            )
        if value != only_value[key]:
            raise CheckpointError(
                f"{name} must be {json.dumps(only_value[key])} (nothing else is supported),"
                f" got {_short(value)}."
                " Give a drafter trained so."
            )


def _group(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    group = values.get(key)
    if group is None:
        return {}
    if not isinstance(group, dict):
        raise CheckpointError(f"{key} must be a group of keys, got {group!r}. Correct config.json.")
    return group


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
