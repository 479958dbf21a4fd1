"""The state that a run resumes from: saved whole or not at all, the newest few kept.

A state is one safetensors file: weights, the optimizers' moments, and every rank's random state,
under the names that the drafter's parameters have in one process. So a run may go on with another
number of ranks, or sharded otherwise; on the same number its steps are bit-equal.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from dpace_serve.config import build_config
from dpace_serve.durable_file import write_whole
from dpace_serve.errors import CheckpointError, ConfigError
from dpace_serve.outside_text import parse_json
from dpace_training.config import TrainConfig
from dpace_training.fit.random_state import read_random_states, restore_random_states
from dpace_training.fit.ranks import Ranks
from dpace_training.writing import writing

RESUME_FOLDER = "resume"
# Settings that change nothing that is computed.
_FREE_SETTINGS = ("fit.keep_last", "fit.trackers")
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What changes while training: the drafter as the ranks hold it, and its optimizers."""

    drafter: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    ranks: Ranks


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a saved run stands; batches and learning rate follow from the step alone."""

    step: int
    data: str


def whole_weights(fitted: Fitted) -> dict[str, Tensor]:
    """All weights on the CPU of the first rank, an empty dict on the others; collective."""
    weights: dict[str, Any] = get_model_state_dict(fitted.drafter, options=_WHOLE)
    return weights


def save_resume_point(
    output: Path, fitted: Fitted, config: TrainConfig, point: ResumePoint
) -> None:
    """Save the state of this step and drop all but the newest `fit.keep_last`; collective.

    Raises:
        CheckpointError: If the file cannot be written; states saved before are untouched.
    """
    weights = whole_weights(fitted)
    # torch types a state dict as a union of everything it may hold.
    learned: dict[str, Any] = get_optimizer_state_dict(
        fitted.drafter, list(fitted.optimizers), options=_WHOLE
    )
    random_states = fitted.ranks.gather(read_random_states(fitted.ranks.device))
    if fitted.ranks.is_first:
        tensors = {f"weight.{name}": tensor for name, tensor in weights.items()}
        for name, moments in learned["state"].items():
            tensors |= {f"moment.{kind}.{name}": tensor for kind, tensor in moments.items()}
        for rank, states in enumerate(random_states):
            tensors |= {f"{name}.{rank}": state for name, state in states.items()}
        facts = {"step": point.step, "data": point.data, "config": config.model_dump(mode="json")}
        folder = output / RESUME_FOLDER
        with writing(folder):
            _write_whole(folder / f"step-{point.step:08d}.safetensors", tensors, facts)
            for old in saved_states(output)[: -config.fit.keep_last]:
                old.unlink()
    fitted.ranks.wait()


def load_resume_point(
    output: Path, fitted: Fitted, config: TrainConfig, *, data: str
) -> ResumePoint | None:
    """Put the newest saved state back; None without one; collective.

    Args:
        output: Folder of the run.
        fitted: Takes the state; must not have made a step.
        config: Configuration of this run.
        data: Digest of this run's data.

    Raises:
        ConfigError: If the saved run had another configuration or other data.
        CheckpointError: If the file is damaged.
    """
    states = saved_states(output)
    if not states:
        return None
    path = states[-1]
    try:
        with safe_open(path, framework="pt") as file:
            facts = parse_json(file.metadata()["json"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        _check_same_run(output, facts, config, data)
        _restore(tensors, fitted)
    except (OSError, SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: damaged or of another drafter ({reason}). Delete the file to go on from the "
            "one before it, or to start anew."
        ) from None
    return ResumePoint(step=facts["step"], data=facts["data"])


def saved_states(output: Path) -> list[Path]:
    """Files of complete saved states, the newest last."""
    return sorted((output / RESUME_FOLDER).glob("step-*.safetensors"))


def _write_whole(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    metadata = {"json": json.dumps(facts)}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: save_file(contiguous, file, metadata=metadata))


def _restore(tensors: dict[str, Tensor], fitted: Fitted) -> None:
    weights: dict[str, Any] = {}
    moments: dict[str, Any] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "weight":
            weights[rest] = tensor
        elif kind == "moment":
            moment, _, parameter = rest.partition(".")
            moments.setdefault(parameter, {})[moment] = tensor
    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(fitted.drafter, weights, options=options)
    optimizers = list(fitted.optimizers)
    # The groups hold settings, which are this run's own; only what was learned is put back.
    current = get_optimizer_state_dict(fitted.drafter, optimizers, options=_WHOLE)
    groups = fitted.ranks.gather(current.get("param_groups"))[0]
    set_optimizer_state_dict(
        fitted.drafter,
        optimizers,
        {"state": moments, "param_groups": groups},
        options=options,
    )
    restore_random_states(tensors, rank=fitted.ranks.rank, device=fitted.ranks.device)


def _check_same_run(output: Path, facts: dict[str, Any], config: TrainConfig, data: str) -> None:
    saved = _with_new_settings(facts["config"])
    changed = [
        key
        for key in _changed_keys(saved, config.model_dump(mode="json"), "")
        if key not in _FREE_SETTINGS
    ]
    if facts["data"] != data:
        changed.append("the data")
    if changed:
        raise ConfigError(
            f"{output}: holds a run that differs in {', '.join(changed)}. "
            "Choose another output folder, or delete that one to start anew."
        )


def _with_new_settings(saved: dict[str, Any]) -> dict[str, Any]:
    """The saved configuration with the defaults of settings that did not exist yet."""
    try:
        return build_config(TrainConfig, saved, source="the saved run").model_dump(mode="json")
    except ConfigError:  # a setting is gone or means something else: the comparison names it
        return saved


def _changed_keys(old: object, new: object, prefix: str) -> list[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [prefix]
    changed: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        name = f"{prefix}.{key}" if prefix else key
        changed += _changed_keys(old.get(key), new.get(key), name)
    return changed
