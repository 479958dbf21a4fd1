"""How large a run is: parameters of the drafter, of its specialists, and peak memory."""

import resource

import torch

from dpace_serve.drafter.specialists import SECTION
from dpace_training.drafter.model import BlockDrafter

_KIBIBYTE, _MEGABYTE = 1024, 1_000_000


def num_parameters(drafter: BlockDrafter) -> int:
    """Trainable numbers of the drafter, over all processes."""
    return sum(parameter.numel() for parameter in drafter.parameters())


def num_specialist_parameters(drafter: BlockDrafter) -> int:
    """Those of them that groups of draft positions have of their own."""
    return sum(
        parameter.numel()
        for name, parameter in drafter.named_parameters()
        if name.startswith(f"{SECTION}.")
    )


def size_line(drafter: BlockDrafter) -> str:
    """The drafter's parameters for the log."""
    line = f"the drafter has {num_parameters(drafter):,} parameters"
    specialists = drafter.config.specialists
    if specialists is None:
        return line
    groups = specialists.num_groups(drafter.config.num_draft_tokens)
    return (
        f"{line}, {num_specialist_parameters(drafter):,} of them in {groups} specialists"
        f" ({specialists.kind})"
    )


def peak_megabytes(device: torch.device) -> float:
    """Most memory that this process had so far, on an accelerator there, else its resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _MEGABYTE
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIBIBYTE / _MEGABYTE
