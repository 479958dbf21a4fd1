"""The drafter's configuration, from the run's settings and the target's own shape."""

from transformers import PretrainedConfig

from dpace_serve.drafter.checkpoint import DrafterConfig, default_target_layer_ids
from dpace_serve.drafter.rope import Rope
from dpace_serve.drafter.rotation import read_target_rope
from dpace_serve.drafter.sliding import SlidingAttention
from dpace_serve.drafter.specialists import Specialists
from dpace_serve.errors import CheckpointError, ConfigError
from dpace_training.config import DrafterShape, TrainConfig
from dpace_training.data.target_model import Target
from dpace_training.drafter.warm_start import require_fit

# What Gemma, Cohere and Granite do to logits behind the head; none changes the most likely token.
_LOGIT_CHANGES = ("final_logit_softcapping", "logit_scale", "logits_scaling")
_DEFAULT_RMS_NORM_EPS = 1e-6
_DEFAULT_RANK = 16


def drafter_config(config: TrainConfig, target: Target) -> DrafterConfig:
    """Shape of the drafter: what the settings leave open is the target's.

    Raises:
        ConfigError: If the target has too few layers for the taps, no token left that can stand
            for a masked position, gives no value for what the settings leave open, changes its
            logits where they are labels, or if the drafter to start from has another shape.
        CheckpointError: If the shape breaks a rule of drafters, or the drafter to start from is
            damaged.
    """
    if config.loss.needs_target:
        _require_plain_logits(target)
    found = _drafter_config(config, target)
    if config.drafter.init_from is not None:
        require_fit(config.drafter.init_from, found, target=target.folder)
    return found


def _drafter_config(config: TrainConfig, target: Target) -> DrafterConfig:
    shape = config.drafter
    # A multimodal target speaks through its text part.
    model = target.model.config.get_text_config()
    num_heads = shape.num_attention_heads or _size(target, "num_attention_heads")
    rope = _rope(shape, model, target)
    return DrafterConfig(
        hidden_size=model.hidden_size,
        intermediate_size=shape.intermediate_size or _size(target, "intermediate_size"),
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=shape.num_key_value_heads or _num_key_value_heads(model, num_heads),
        head_dim=shape.head_dim or _head_dim(model),
        rms_norm_eps=getattr(model, "rms_norm_eps", _DEFAULT_RMS_NORM_EPS),
        rope_theta=rope.theta,
        partial_rotary_factor=rope.partial_rotary_factor,
        rope_scaling=rope.scaling,
        max_position_embeddings=_size(target, "max_position_embeddings"),
        vocab_size=model.vocab_size,
        block_size=shape.block_size,
        mask_token_id=_mask_token_id(config, target),
        target_layer_ids=_layer_ids(config, model),
        num_target_layers=model.num_hidden_layers,
        target_hidden_size=model.hidden_size,
        attention_bias=shape.attention_bias,
        sliding=_sliding(shape),
        specialists=_specialists(shape),
        objective=config.loss.name,
        target_name=target.folder.name,
        target_revision=target.revision,
        enable_thinking=target.enable_thinking,
    )


def _require_plain_logits(target: Target) -> None:
    """Refuse soft labels of a target whose logits are more than final states times head."""
    model = target.model.config.get_text_config()
    changes = [key for key in _LOGIT_CHANGES if getattr(model, key, None) not in (None, 1)]
    if getattr(target.model.get_output_embeddings(), "bias", None) is not None:
        changes.append("a bias of the head")
    if changes:
        raise ConfigError(
            f"{target.folder}: soft labels need logits that are final states times head, this"
            f" target has {', '.join(changes)}. Choose an objective without soft labels."
        )


def _size(target: Target, key: str) -> int:
    value = getattr(target.model.config.get_text_config(), key, None)
    if not isinstance(value, int):
        cure = f"Set drafter.{key}." if key in DrafterShape.model_fields else "Take another target."
        raise ConfigError(f"{target.folder}: config.json gives no {key}, got {value!r}. {cure}")
    return value


def _num_key_value_heads(model: PretrainedConfig, num_heads: int) -> int:
    return int(getattr(model, "num_key_value_heads", None) or num_heads)


def _head_dim(model: PretrainedConfig) -> int:
    given = getattr(model, "head_dim", None)
    return int(given or model.hidden_size // model.num_attention_heads)


def _rope(shape: DrafterShape, model: PretrainedConfig, target: Target) -> Rope:
    if shape.rope_theta is not None:
        return Rope(shape.rope_theta, 1.0, None)
    cure = "Set drafter.rope_theta to give the drafter a plain rotation of its own."
    try:
        return read_target_rope(model.to_dict())
    except CheckpointError as error:
        raise ConfigError(f"{target.folder}: {error} {cure}") from None


def _sliding(shape: DrafterShape) -> SlidingAttention | None:
    if shape.sliding_window is None:
        return None
    layers = shape.sliding_layers
    if layers is None:
        layers = tuple(range(shape.num_hidden_layers))
    return SlidingAttention(shape.sliding_window, layers, shape.sliding_is_causal)


def _specialists(shape: DrafterShape) -> Specialists | None:
    asked = shape.specialists
    if asked is None:
        return None
    rank = (asked.rank or _DEFAULT_RANK) if asked.kind == "low_rank" else 0
    return Specialists(asked.kind, asked.group_size, rank)


def _layer_ids(config: TrainConfig, model: PretrainedConfig) -> tuple[int, ...]:
    if config.drafter.target_layer_ids is not None:
        return config.drafter.target_layer_ids
    return default_target_layer_ids(model.num_hidden_layers, config.drafter.num_taps)


def _mask_token_id(config: TrainConfig, target: Target) -> int:
    if config.drafter.mask_token_id is not None:
        return config.drafter.mask_token_id
    if target.tokenizer.mask_token_id is not None:
        return int(target.tokenizer.mask_token_id)
    first_unused = len(target.tokenizer)
    if first_unused < target.model.config.get_text_config().vocab_size:
        return first_unused
    raise ConfigError(
        f"{target.folder}: the tokenizer has no mask token and all {first_unused} ids of the "
        "vocabulary are used. Set drafter.mask_token_id to a token that texts never hold."
    )
