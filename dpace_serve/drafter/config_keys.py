"""Which keys of a drafter's `config.json` are understood, and which values would change the maths.

An engine ignores a key it does not know, and so would our training model: the two would then
compute different things without a word. So the set of keys is closed.
"""

import json
from collections.abc import Mapping
from typing import Any

from dpace_serve.drafter.config_values import group
from dpace_serve.drafter.specialists import SECTION
from dpace_serve.errors import CheckpointError

ARCHITECTURE = "DFlashDraftModel"
SPECIALIST_ARCHITECTURE = "DPaceSpecialistDraftModel"
MODEL_TYPE = "qwen3"

_USED = frozenset({
    "architectures", "attention_bias", "block_size", "dflash_config", "dpace", "draft_vocab_size",
    "head_dim", "hidden_size", "intermediate_size", "layer_types", "max_position_embeddings",
    "max_window_layers", "model_type", "num_attention_heads", "num_hidden_layers",
    "num_key_value_heads", "num_target_layers", "partial_rotary_factor", "rms_norm_eps",
    "rope_parameters", "rope_scaling", "rope_theta", "sliding_window", "specialists",
    "target_hidden_size", "use_sliding_window", "vocab_size",
})  # fmt: skip
# What transformers, 4 and 5, writes of a Qwen3 or Llama configuration beside its architecture.
_WITHOUT_EFFECT = frozenset({
    "_name_or_path", "attention_dropout", "auto_map", "bos_token_id", "chunk_size_feed_forward",
    "dtype", "eos_token_id", "id2label", "initializer_range", "is_encoder_decoder", "label2id",
    "output_attentions", "output_hidden_states", "pad_token_id", "pretraining_tp", "problem_type",
    "return_dict", "tie_word_embeddings", "torch_dtype", "transformers_version", "use_cache",
})  # fmt: skip
_ONLY_VALUE: dict[str, object] = {
    "add_swa_attention_sink_bias": False,
    "has_own_lm_head": False,
    "hidden_act": "silu",
    "is_causal": False,
    "is_neox_style": True,
    "logit_scale": 1.0,
    "mlp_bias": False,
    "rope_is_neox_style": True,
    "use_aux_hidden_state": True,
}
_DFLASH_USED = frozenset({"block_size", "mask_token_id", "swa_window_size", "target_layer_ids"})
_DFLASH_ONLY_VALUE: dict[str, object] = {
    "attention_sink_bias": False,
    "attention_value_scale": 1.0,
    "causal": False,
    "sample_from_anchor": False,
    "use_aux_hidden_state": True,
    "use_swa": False,
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
    _check_draft_vocabulary(values)
    check_group(values, "", _USED | _WITHOUT_EFFECT, _ONLY_VALUE)
    refuse_code(values)
    check_group(group("dpace", values), "dpace", _FACTS, {})
    dflash = group("dflash_config", values)
    check_group(dflash, "dflash_config", _DFLASH_USED, _DFLASH_ONLY_VALUE)
    return dflash


def refuse_code(values: Mapping[str, Any]) -> None:
    """Refuse a configuration that names code for itself.

    An engine that trusts its target's code trusts the drafter's too, and runs it while it reads the
    configuration. Code of the model is never looked at: engines have their own.

    Raises:
        CheckpointError: If it names some.
    """
    named = group("auto_map", values).get("AutoConfig")
    if named is not None:
        raise CheckpointError(
            "auto_map must not name AutoConfig, because an engine with --trust-remote-code would"
            f" run it, got {named!r:.80}. Remove it: nothing here needs it."
        )


def _check_architecture(values: Mapping[str, Any]) -> None:
    architectures = values.get("architectures")
    if architectures not in ([ARCHITECTURE], [SPECIALIST_ARCHITECTURE]):
        raise CheckpointError(
            f'architectures must be ["{ARCHITECTURE}"] (the z-lab layout), got'
            f" {architectures!r:.80}. Give a DFlash drafter, or convert it to that layout first."
        )
    # Read as a plain drafter, one with specialists would draft with less than all its weights.
    if (architectures == [SPECIALIST_ARCHITECTURE]) != (values.get(SECTION) is not None):
        raise CheckpointError(
            f'architectures ["{SPECIALIST_ARCHITECTURE}"] and the section {SECTION} must stand'
            f" together, got {architectures!r:.80} and {_short(values.get(SECTION))}. Put the"
            " config.json of this drafter beside its weights."
        )
    if values.get("model_type") != MODEL_TYPE:
        raise CheckpointError(
            f'model_type must be "{MODEL_TYPE}", got {values.get("model_type")!r:.80}.'
            " Give a drafter with Qwen3 layers."
        )


def _check_draft_vocabulary(values: Mapping[str, Any]) -> None:
    draft_vocab_size = values.get("draft_vocab_size")
    if draft_vocab_size not in (None, values.get("vocab_size")):
        raise CheckpointError(
            f"draft_vocab_size must equal vocab_size = {values.get('vocab_size')!r:.80},"
            f" got {draft_vocab_size!r:.80}. A reduced vocabulary is not supported: give a drafter"
            " with the full one."
        )


def check_group(
    values: Mapping[str, Any],
    name_of_group: str,
    free: frozenset[str] | set[str],
    only_value: Mapping[str, object],
) -> None:
    """Refuse keys of a group that are neither free nor at their only value.

    Raises:
        CheckpointError: On the first such key.
    """
    for key, value in values.items():
        if key in free or value is None:
            continue
        name = f"{name_of_group}.{key}" if name_of_group else key
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


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
