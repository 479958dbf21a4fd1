"""Token loss: what one draft position costs before it is weighted.

An objective of one's own is one function here and one line in `TOKEN_LOSSES`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dpace_training.losses.config import LossConfig, TokenLossName
from dpace_training.losses.predictions import BlockPredictions

SMALLEST_OVERLAP = 1e-6

PositionLoss = Float[Tensor, "blocks positions"]


def cross_entropy(predictions: BlockPredictions, loss: LossConfig) -> PositionLoss:  # noqa: ARG001 (one table, one form)
    """Negative log-probability of the label in nats."""
    return predictions.cross_entropy


def kl_divergence(predictions: BlockPredictions, loss: LossConfig) -> PositionLoss:  # noqa: ARG001 (one table, one form)
    """Divergence of the drafter from the target in nats, the target's probabilities first."""
    return predictions.require_agreement().divergence


def total_variation(predictions: BlockPredictions, loss: LossConfig) -> PositionLoss:  # noqa: ARG001 (one table, one form)
    """Chance that a sampled draft is rejected, in [0, 1]; fades where the drafter is far off.

    Source:
        LK losses, arXiv 2602.23881.
    """
    return 1 - predictions.require_agreement().overlap


def negative_log_acceptance(predictions: BlockPredictions, loss: LossConfig) -> PositionLoss:  # noqa: ARG001 (one table, one form)
    """Negative log of the chance that a sampled draft is accepted, in nats.

    Source:
        LK losses, arXiv 2602.23881.
    """
    return -predictions.require_agreement().overlap.clamp_min(SMALLEST_OVERLAP).log()


def lk_hybrid(predictions: BlockPredictions, loss: LossConfig) -> PositionLoss:
    """KL while few drafts are accepted, total variation when many are.

    The share of KL is `exp(-lk_eta * overlap)`, without gradient.

    Source:
        LK losses, arXiv 2602.23881.
    """
    overlap = predictions.require_agreement().overlap.detach()
    kl_share = torch.exp(-loss.lk_eta * overlap)
    divergence = kl_divergence(predictions, loss)
    return kl_share * divergence + (1 - kl_share) * total_variation(predictions, loss)


TOKEN_LOSSES: dict[TokenLossName, Callable[[BlockPredictions, LossConfig], PositionLoss]] = {
    "ce": cross_entropy,
    "kl": kl_divergence,
    "tv": total_variation,
    "neg_log_acceptance": negative_log_acceptance,
    "lk_hybrid": lk_hybrid,
}
