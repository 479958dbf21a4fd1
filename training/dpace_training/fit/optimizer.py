"""Optimizers, and the learning rate, which depends on the step alone."""

import math

import torch

from dpace_training.config import FitConfig
from dpace_training.drafter.model import BlockDrafter


def make_optimizers(drafter: BlockDrafter, fit: FitConfig) -> list[torch.optim.Optimizer]:
    """AdamW over all weights; with `muon`, Muon over the matrices and AdamW over the rest.

    Both share one learning rate: Muon scales its update to the size that AdamW's would have.

    Source:
        Muon: Keller Jordan et al., 2024; its scale: arXiv 2502.16982, section 2.2.
    """
    weights = list(drafter.parameters())
    matrices = [weight for weight in weights if weight.ndim == 2 and fit.optimizer == "muon"]
    others = [weight for weight in weights if all(weight is not matrix for matrix in matrices)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            others,
            lr=fit.learning_rate,
            betas=fit.betas,
            weight_decay=fit.weight_decay,
            fused=True,
        )
    ]
    if matrices:
        optimizers.append(
            torch.optim.Muon(
                matrices,
                lr=fit.learning_rate,
                weight_decay=fit.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimizers


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
