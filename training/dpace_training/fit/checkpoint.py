"""What training leaves behind: the finished drafter, the configuration and the facts of the run."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from dpace_serve.drafter import checkpoint as drafter_checkpoint
from dpace_serve.drafter.checkpoint import DrafterConfig
from dpace_serve.drafter.weight_files import SINGLE_FILE
from dpace_serve.durable_file import flush, write_whole
from dpace_training.config import TrainConfig
from dpace_training.writing import writing

CONFIG_FILE = "train.yaml"
FACTS_FILE = "training.json"


def write_drafter(
    output: Path,
    shape: DrafterConfig,
    weights: dict[str, Tensor],
    config: TrainConfig,
    facts: dict[str, Any],
) -> None:
    """Write the finished drafter in bfloat16, with its configuration and facts beside it.

    The facts go first and come back last: where they lie, all that they speak of is whole.

    Raises:
        CheckpointError: If it cannot be written; a drafter that was there before is untouched.
    """
    tensors = {
        name: weight.detach().to("cpu", torch.bfloat16).contiguous()
        for name, weight in weights.items()
    }
    text = json.dumps(facts, indent=2) + "\n"
    with writing(output):
        (output / FACTS_FILE).unlink(missing_ok=True)
        flush(output)
        drafter_checkpoint.write(output, shape, tensors)
        write_config(output, config)
        write_whole(output / FACTS_FILE, lambda file: file.write_text(text, encoding="utf-8"))


def is_finished(output: Path) -> bool:
    """Whether a run has come to its end here; one that was cut while it wrote has not."""
    return (output / FACTS_FILE).exists() and (output / SINGLE_FILE).exists()


def write_config(output: Path, config: TrainConfig) -> None:
    """Write the resolved configuration; `dpace train` takes the file as it is.

    Raises:
        CheckpointError: If it cannot be written; the file that was there before is untouched.
    """
    path = output / CONFIG_FILE
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    with writing(path):
        output.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))
