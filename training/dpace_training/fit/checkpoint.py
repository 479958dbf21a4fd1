"""What training leaves behind: the finished drafter, the configuration and the facts of the run."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from dpace_serve.drafter import checkpoint as drafter_checkpoint
from dpace_serve.drafter.checkpoint import DrafterConfig
from dpace_serve.errors import CheckpointError
from dpace_training.config import TrainConfig

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

    Raises:
        CheckpointError: If it cannot be written; a drafter that was there before is untouched.
    """
    tensors = {
        name: weight.detach().to("cpu", torch.bfloat16).contiguous()
        for name, weight in weights.items()
    }
    try:
        drafter_checkpoint.write(output, shape, tensors)
        write_config(output, config)
        (output / FACTS_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{output}: the drafter cannot be written ({' '.join(str(error).split())}). Free space "
            "and run the same command again; no step is lost."
        ) from None


def write_config(output: Path, config: TrainConfig) -> None:
    """Write the resolved configuration; `dpace train` takes the file as it is."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    (output / CONFIG_FILE).write_text(text, encoding="utf-8")
