"""What the chosen way of computing needs of the machine, asked before any work is done."""

import torch

from dpace_serve.errors import ConfigError
from dpace_training.config import FitConfig


def require_computable(fit: FitConfig, device: torch.device) -> None:
    """Refuse settings under which this device could not take a step.

    Raises:
        ConfigError: If flex attention has no gradient there.
    """
    if fit.attention == "flex" and device.type == "cpu":
        raise ConfigError(
            "fit.attention: flex attention has no backward pass on a CPU in torch. "
            "Set two_part or sdpa, or train on a GPU."
        )
