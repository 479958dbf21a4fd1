"""AdamW and its learning rate, which depends on the step alone."""

import math

import torch

from dpace_training.config import FitConfig
from dpace_training.drafter.model import BlockDrafter


def make_optimizer(drafter: BlockDrafter, fit: FitConfig) -> torch.optim.AdamW:
    """AdamW over all weights of the drafter."""
    return torch.optim.AdamW(
        drafter.parameters(),
        lr=fit.learning_rate,
        betas=fit.betas,
        weight_decay=fit.weight_decay,
        fused=True,
    )


def learning_rate_at(step: int, *, total_steps: int, fit: FitConfig) -> float:
    """Learning rate of a step: a linear rise, then a cosine that would reach 0 after the last one.

    Args:
        step: Number of the step, from 0.
        total_steps: Steps of the whole run.
        fit: Highest rate and share of steps in which it rises.
    """
    warmup_steps = round(fit.warmup_ratio * total_steps)
    if step < warmup_steps:
        return fit.learning_rate * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return fit.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
