"""Starts a drafter from the weights of another one, in any known layout."""

import logging
from dataclasses import fields, replace
from pathlib import Path

from torch import Tensor

from dpace_serve.drafter.checkpoint import DrafterConfig, tensor_shapes
from dpace_serve.drafter.exchange import read_drafter, read_layout
from dpace_serve.drafter.specialists import SECTION
from dpace_serve.errors import ConfigError
from dpace_training.drafter.model import BlockDrafter

logger = logging.getLogger(__name__)

# These change neither what a weight means nor what the drafter computes with it.
_FREE = frozenset({
    "objective", "target_name", "target_revision", "max_position_embeddings", "specialists",
})  # fmt: skip
_CURE = "Give drafter.* the shape of that drafter, or drop drafter.init_from."


def require_fit(source: Path, config: DrafterConfig, *, target: Path) -> None:
    """Check that the weights of a drafter fit a configuration, without reading them.

    What fits but computes something else, such as another block size or rotation, is warned of:
    the run then starts from a drafter that has to adapt. A plain drafter fits one with specialists:
    they start so that they change nothing.

    Args:
        source: Folder of the drafter to start from.
        config: The drafter to train.
        target: Folder of its target.

    Raises:
        CheckpointError: If the source is damaged or not supported.
        ConfigError: If a tensor has another shape, the weights were trained on other layers, or
            there are specialists other than this run's.
    """
    found = read_layout(source, target=target)
    if found.specialists is not None and found.specialists != config.specialists:
        raise ConfigError(
            f"{source}: has the specialists {found.specialists.to_dict()}, this run"
            f" {config.specialists.to_dict() if config.specialists else 'none'}. Set"
            " drafter.specialists to them, or start from a plain drafter."
        )
    needed = replace(config, specialists=found.specialists)
    _require_shapes(source, tensor_shapes(found), tensor_shapes(needed))
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

    Of a plain drafter's last layer each group of a drafter with specialists gets a copy; adapters,
    which a plain drafter does not have, stay as they are.

    Raises:
        CheckpointError: If the source is damaged or not supported.
    """
    found, tensors = read_drafter(source, target=target)
    if found.specialists is None and drafter.config.specialists is not None:
        tensors = drafter.state_dict() | weights_for_groups(tensors, drafter.config)
    drafter.load_state_dict(tensors)


def weights_for_groups(plain: dict[str, Tensor], config: DrafterConfig) -> dict[str, Tensor]:
    """A plain drafter's tensors, those of the last layer once per group where it is replicated.

    Args:
        plain: Tensors of a plain drafter.
        config: That of the same drafter with specialists; adapters, which are in no plain drafter,
            are left out.
    """
    last = f"layers.{config.num_hidden_layers - 1}."
    sources = {name: name.replace(f"{SECTION}.", last, 1) for name in tensor_shapes(config)}
    return {
        name: plain[sources[name]].expand(shape)
        for name, shape in tensor_shapes(config).items()
        if sources[name] in plain
    }


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
