"""Where a command computes."""

import torch


def available_device() -> torch.device:
    """The accelerator when there is one, else the CPU."""
    # Sums are kept in float64, which Apple's devices lack.
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
