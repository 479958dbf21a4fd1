"""The configuration of the speculators layout, to and from ours.

It keeps the keys of the layers in `transformer_layer_config` and counts tapped layers from 1, since
0 is the embedding there. Layers without a window look both ways inside a block; those with one do
if `sliding_window_non_causal` says so.
"""

from collections.abc import Mapping
from typing import Any

from dpace_serve.drafter.config import DrafterConfig
from dpace_serve.drafter.config_keys import ARCHITECTURE, MODEL_TYPE, check_group, refuse_code
from dpace_serve.drafter.config_values import given, group, num_layers, whole_list
from dpace_serve.drafter.sliding import FULL_ATTENTION, SLIDING_ATTENTION
from dpace_serve.errors import CheckpointError

SPECULATORS_TYPE = "speculators_model_type"
_DFLASH = "dflash"
_USED = frozenset({
    SPECULATORS_TYPE, "architectures", "aux_hidden_state_layer_ids", "block_size",
    "draft_vocab_size", "mask_token_id", "sliding_window_non_causal", "speculators_config",
    "target_hidden_size", "transformer_layer_config",
})  # fmt: skip
# What concerns training or another kind of drafter, and what transformers writes beside it.
_WITHOUT_EFFECT = frozenset({
    "_name_or_path", "auf", "auto_map", "chunk_size_feed_forward", "dtype", "emb_dim",
    "gru_hidden_dim", "id2label", "is_encoder_decoder", "label2id", "lambda_base_decay_ratio",
    "lambda_base_start", "max_anchors", "model_type", "output_attentions", "output_hidden_states",
    "problem_type", "pure_draft_prefix_len", "return_dict", "speculators_version",
    "tie_word_embeddings", "torch_dtype", "transformers_version",
})  # fmt: skip
_ONLY_VALUE: dict[str, object] = {
    "projector_type": "dflash",
    "sample_from_anchor": False,
    "shift_label": False,
}


def is_speculators(values: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is of this layout."""
    return SPECULATORS_TYPE in values


def from_speculators(
    values: Mapping[str, Any], *, num_target_layers: int | None = None
) -> DrafterConfig:
    """Read this layout's `config.json`.

    Args:
        values: Its keys.
        num_target_layers: Layers of the target, where it is known; the layout has no place for it.

    Raises:
        CheckpointError: If it is no DFlash drafter, or asks for something not supported.
    """
    kind = values.get(SPECULATORS_TYPE)
    if kind != _DFLASH:
        raise CheckpointError(
            f'{SPECULATORS_TYPE} must be "{_DFLASH}", got {kind!r:.80}. Give a DFlash drafter.'
        )
    check_group(values, "", _USED | _WITHOUT_EFFECT, _ONLY_VALUE)
    refuse_code(values)
    body = {"model_type": MODEL_TYPE, **group("transformer_layer_config", values)}
    if num_target_layers is not None:
        body.setdefault("num_target_layers", num_target_layers)
    if body.get("num_target_layers") is None:
        raise CheckpointError(
            "the target's number of layers is not in this drafter's config.json. Name the target:"
            " dpace export FOLDER --layout zlab --output COPY --target TARGET."
        )
    num_hidden_layers = num_layers("num_hidden_layers", body)
    types = body.get("layer_types") or [FULL_ATTENTION] * num_hidden_layers
    is_windowed = isinstance(types, list) and SLIDING_ATTENTION in types
    dflash: dict[str, Any] = {
        "mask_token_id": values.get("mask_token_id"),
        "target_layer_ids": _target_layer_ids(values),
    }
    if is_windowed:
        # vLLM takes a missing flag for true, speculators for false: no default is safe.
        flag = given("sliding_window_non_causal", (values,))
        dflash["causal"] = False if flag is True else None
    return DrafterConfig.from_dict(
        {
            **body,
            "architectures": [ARCHITECTURE],
            "block_size": values.get("block_size"),
            "dflash_config": dflash,
            "draft_vocab_size": values.get("draft_vocab_size"),
            "layer_types": types,
            "target_hidden_size": values.get("target_hidden_size"),
            "use_sliding_window": is_windowed,
        }
    )


def as_served(values: Mapping[str, Any]) -> DrafterConfig:
    """Read this layout's `config.json` where vLLM computes what the drafter was trained for.

    Raises:
        CheckpointError: If it does not, or as `from_speculators`.
    """
    config = from_speculators(values)
    is_causal = values.get("sliding_window_non_causal") is False
    if is_causal != _is_causal_everywhere(config):
        # vLLM 0.32, transformers_utils/configs/speculators/algos.py:124: one flag for all layers.
        raise CheckpointError(
            "sliding_window_non_causal must be true here, got false: vLLM then makes layers without"
            " a window causal too, and they are not. Serve a copy: dpace export --layout zlab."
        )
    return config


def require_a_place(config: DrafterConfig) -> None:
    """Check that the layout can say what a drafter computes.

    Raises:
        CheckpointError: If it cannot.
    """
    if config.specialists is not None:
        raise CheckpointError(
            "the speculators layout has no place for position specialists, this drafter has some"
            f" ({config.specialists.kind}). Keep the z-lab layout."
        )
    sliding = config.sliding
    if sliding is not None and sliding.is_causal and not _is_causal_everywhere(config):
        raise CheckpointError(
            "a drafter with causal windows in some of its layers cannot be served from the"
            " speculators layout: vLLM would make all its layers causal. Keep the z-lab layout."
        )


def to_speculators(
    config: DrafterConfig, *, verifier: str, verifier_architectures: list[str]
) -> dict[str, Any]:
    """This layout's `config.json`.

    Args:
        config: The drafter.
        verifier: Folder or hub name of its target.
        verifier_architectures: `architectures` of the target.

    Raises:
        CheckpointError: If the layout cannot say what the drafter computes.
    """
    require_a_place(config)
    layers = config.to_dict()
    for key in ("architectures", "block_size", "dflash_config"):
        del layers[key]
    # No model_type: vLLM 0.32 finds this layout by its absence (transformers_utils/config.py:315).
    return {
        "architectures": ["DFlashSpeculator"],
        "aux_hidden_state_layer_ids": [layer_id + 1 for layer_id in config.target_layer_ids],
        "block_size": config.block_size,
        "draft_vocab_size": config.vocab_size,
        "mask_token_id": config.mask_token_id,
        "projector_type": "dflash",
        "sample_from_anchor": False,
        # Without windows vLLM reads it all the same, and false would make every layer causal.
        "sliding_window_non_causal": not _is_causal_everywhere(config),
        "speculators_config": {
            "algorithm": _DFLASH,
            "default_proposal_method": "greedy",
            "proposal_methods": [
                {"proposal_type": "greedy", "speculative_tokens": config.num_draft_tokens}
            ],
            "verifier": {"architectures": verifier_architectures, "name_or_path": verifier},
        },
        SPECULATORS_TYPE: _DFLASH,
        "target_hidden_size": config.target_hidden_size,
        "tie_word_embeddings": False,
        "transformer_layer_config": layers,
    }


def _is_causal_everywhere(config: DrafterConfig) -> bool:
    sliding = config.sliding
    return (
        sliding is not None
        and sliding.is_causal
        and len(sliding.layers) == config.num_hidden_layers
    )


def _target_layer_ids(values: Mapping[str, Any]) -> list[int]:
    ids = whole_list("aux_hidden_state_layer_ids", values)
    if 0 in ids:
        raise CheckpointError(
            f"aux_hidden_state_layer_ids must be at least 1, got {list(ids)}: 0 is the embedding,"
            " which engines do not tap. Give a drafter that reads layers only."
        )
    return [layer_id - 1 for layer_id in ids]
