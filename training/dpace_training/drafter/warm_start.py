"""Starts a drafter from the weights of another one, in any known layout."""

import logging
from dataclasses import fields
from pathlib import Path

from dpace_serve.drafter.checkpoint import DrafterConfig, tensor_shapes
from dpace_serve.drafter.exchange import read_drafter, read_layout
from dpace_serve.errors import ConfigError
from dpace_training.drafter.model import BlockDrafter

logger = logging.getLogger(__name__)

# These change neither what a weight means nor what the drafter computes with it.
_FREE = frozenset({"objective", "target_name", "target_revision", "max_position_embeddings"})
_CURE = "Give drafter.* the shape of that drafter, or drop drafter.init_from."


def require_fit(source: Path, config: DrafterConfig, *, target: Path) -> None:
    """Check that the weights of a drafter fit a configuration, without reading them.

    What fits but computes something else, such as another block size or rotation, is warned of:
    the run then starts from a drafter that has to adapt.

    Args:
        source: Folder of the drafter to start from.
        config: The drafter to train.
        target: Folder of its target.

    Raises:
        CheckpointError: If the source is damaged or not supported.
        ConfigError: If a tensor has another shape, or the weights were trained on other layers.
    """
    found = read_layout(source, target=target)
    _require_shapes(source, tensor_shapes(found), tensor_shapes(config))
    if found.target_layer_ids != config.target_layer_ids:
        raise ConfigError(
            f"{source}: was trained on target_layer_ids {list(found.target_layer_ids)}, this run"
            f" reads {list(config.target_layer_ids)}. Set drafter.target_layer_ids to them."
        )
    changed = [
        f"{field.name} {getattr(found, field.name)} -> {getattr(config, field.name)}"
        for field in fields(DrafterConfig)
        if field.name not in _FREE and getattr(found, field.name) != getattr(config, field.name)
    ]
    if changed:
        logger.warning("%s: this run changes %s", source, ", ".join(changed))


def load_weights(drafter: BlockDrafter, source: Path, *, target: Path) -> None:
    """Put the weights of a drafter that fits into this one, in its number format.

    Raises:
        CheckpointError: If the source is damaged or not supported.
    """
    _, tensors = read_drafter(source, target=target)
    drafter.load_state_dict(tensors)


def _require_shapes(
    source: Path, found: dict[str, tuple[int, ...]], needed: dict[str, tuple[int, ...]]
) -> None:
    for name in sorted(found.keys() | needed.keys()):
        if found.get(name) != needed.get(name):
            raise ConfigError(
                f"{source}: does not fit this run, first in {name}: there"
                f" {_words(found.get(name))}, here {_words(needed.get(name))}. {_CURE}"
            )


def _words(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))
