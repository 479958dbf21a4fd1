"""The drafter's configuration, from the run's settings and the target's own shape."""

from dpace_serve.drafter.checkpoint import DrafterConfig, default_target_layer_ids
from dpace_serve.errors import ConfigError
from dpace_training.config import TrainConfig
from dpace_training.data.target_model import Target


def drafter_config(config: TrainConfig, target: Target) -> DrafterConfig:
    """Shape of the drafter: what the settings leave open is the target's.

    Raises:
        ConfigError: If the target has too few layers for the taps, or no token left that can stand
            for a masked position.
        CheckpointError: If the shape breaks a rule of drafters.
    """
    shape, model = config.drafter, target.model.config
    return DrafterConfig(
        hidden_size=model.hidden_size,
        intermediate_size=shape.intermediate_size or model.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads or model.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads or model.num_key_value_heads,
        head_dim=model.head_dim,
        rms_norm_eps=model.rms_norm_eps,
        rope_theta=model.rope_parameters["rope_theta"],
        max_position_embeddings=model.max_position_embeddings,
        vocab_size=model.vocab_size,
        block_size=shape.block_size,
        mask_token_id=_mask_token_id(config, target),
        target_layer_ids=_layer_ids(config, target),
        num_target_layers=model.num_hidden_layers,
        target_hidden_size=model.hidden_size,
        objective=config.loss.name,
        target_name=target.folder.name,
        target_revision=target.revision,
        enable_thinking=target.enable_thinking,
    )


def _layer_ids(config: TrainConfig, target: Target) -> tuple[int, ...]:
    if config.drafter.target_layer_ids is not None:
        return config.drafter.target_layer_ids
    return default_target_layer_ids(target.model.config.num_hidden_layers, config.drafter.num_taps)


def _mask_token_id(config: TrainConfig, target: Target) -> int:
    if config.drafter.mask_token_id is not None:
        return config.drafter.mask_token_id
    if target.tokenizer.mask_token_id is not None:
        return int(target.tokenizer.mask_token_id)
    first_unused = len(target.tokenizer)
    if first_unused < target.model.config.vocab_size:
        return first_unused
    raise ConfigError(
        f"{target.folder}: the tokenizer has no mask token and all {first_unused} ids of the "
        "vocabulary are used. Set drafter.mask_token_id to a token that texts never hold."
    )
