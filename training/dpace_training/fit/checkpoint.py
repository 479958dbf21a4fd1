"""What training writes: the finished drafter, and the whole state that a run resumes from."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dpace_serve.drafter import checkpoint as drafter_checkpoint
from dpace_serve.errors import CheckpointError, ConfigError
from dpace_training.config import TrainConfig
from dpace_training.drafter.model import BlockDrafter

RESUME_FILE = "resume/state.safetensors"
CONFIG_FILE = "train.yaml"
FACTS_FILE = "training.json"

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_RANDOM_STATE = "random_state"


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a saved run stands; batches and learning rate follow from the step alone."""

    step: int
    data: str


def write_drafter(
    output: Path, drafter: BlockDrafter, config: TrainConfig, facts: dict[str, Any]
) -> None:
    """Write the finished drafter in bfloat16, with its configuration and facts beside it."""
    tensors = {
        name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in drafter.state_dict().items()
    }
    drafter_checkpoint.write(output, drafter.config, tensors)
    write_config(output, config)
    (output / FACTS_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def write_config(output: Path, config: TrainConfig) -> None:
    """Write the resolved configuration; `dpace train` takes the file as it is."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    (output / CONFIG_FILE).write_text(text, encoding="utf-8")


def save_resume_point(
    output: Path,
    drafter: BlockDrafter,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    point: ResumePoint,
) -> None:
    """Replace the saved state by this one, in a single step that cannot be half done.

    Args:
        output: Folder of the run.
        drafter: Weights, in float32.
        optimizer: AdamW over exactly the drafter's parameters.
        config: Configuration of the run.
        point: Where the run stands.
    """
    tensors: dict[str, Tensor] = {_RANDOM_STATE: torch.get_rng_state()}
    for name, parameter in drafter.named_parameters():
        tensors[f"weight.{name}"] = parameter.detach().cpu().clone()
        for moment in _MOMENTS:
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment].cpu().clone()
    facts = {"step": point.step, "data": point.data, "config": config.model_dump(mode="json")}
    path = output / RESUME_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"json": json.dumps(facts)})
    temporary.replace(path)


def load_resume_point(
    output: Path,
    drafter: BlockDrafter,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    *,
    data: str,
) -> ResumePoint | None:
    """Put weights, optimizer and random state back as they were saved; None without a saved run.

    Args:
        output: Folder of the run.
        drafter: Takes the weights.
        optimizer: Takes the moments; must not have made a step.
        config: Configuration of this run.
        data: Digest of this run's data.

    Raises:
        ConfigError: If the saved run had another configuration or other data.
        CheckpointError: If the file is damaged.
    """
    path = output / RESUME_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["json"])
        _check_same_run(output, facts, config, data)
        _restore(load_file(path), drafter, optimizer)
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: damaged or of another drafter ({reason}). Delete the file to start anew."
        ) from None
    return ResumePoint(step=facts["step"], data=facts["data"])


def _check_same_run(output: Path, facts: dict[str, Any], config: TrainConfig, data: str) -> None:
    saved = _with_new_keys(facts["config"])
    changed = _changed_keys(saved, config.model_dump(mode="json"), "")
    if facts["data"] != data:
        changed.append("the data")
    if changed:
        raise ConfigError(
            f"{output}: holds a run that differs in {', '.join(changed)}. "
            "Choose another output folder, or delete that one to start anew."
        )


def _with_new_keys(saved: dict[str, Any]) -> dict[str, Any]:
    """The saved configuration with the defaults of keys that did not exist yet."""
    try:
        return TrainConfig.model_validate(saved).model_dump(mode="json")
    except ValidationError:  # a key is gone or means something else: the comparison names it
        return saved


def _changed_keys(old: object, new: object, prefix: str) -> list[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [prefix]
    changed: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        name = f"{prefix}.{key}" if prefix else key
        changed += _changed_keys(old.get(key), new.get(key), name)
    return changed


def _restore(
    tensors: dict[str, Tensor], drafter: BlockDrafter, optimizer: torch.optim.Optimizer
) -> None:
    with torch.no_grad():
        for name, parameter in drafter.named_parameters():
            parameter.copy_(tensors[f"weight.{name}"])
            optimizer.state[parameter] = {
                moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in _MOMENTS
            }
    torch.set_rng_state(tensors[_RANDOM_STATE])
