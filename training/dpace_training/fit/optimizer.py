"""Optimizers, and the learning rate, which depends on the step alone."""

import math

import torch

from dpace_serve.drafter.specialists import SECTION
from dpace_training.config import FitConfig
from dpace_training.drafter.model import BlockDrafter


def make_optimizers(drafter: BlockDrafter, fit: FitConfig) -> list[torch.optim.Optimizer]:
    """AdamW over all weights; with `muon`, Muon over the matrices and AdamW over the rest.

    Both share one learning rate: Muon scales its update to the size that AdamW's would have. The
    rest holds the specialists: torch's Muon takes no stacks of matrices, and a stack of vectors,
    which would pass for a matrix, is none.

    Source:
        Muon: Keller Jordan et al., 2024; its scale: arXiv 2502.16982, section 2.2.
    """
    named = dict(drafter.named_parameters())
    is_matrix = {
        name: fit.optimizer == "muon" and weight.ndim == 2 and not name.startswith(f"{SECTION}.")
        for name, weight in named.items()
    }
    matrices = [weight for name, weight in named.items() if is_matrix[name]]
    others = [weight for name, weight in named.items() if not is_matrix[name]]
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
