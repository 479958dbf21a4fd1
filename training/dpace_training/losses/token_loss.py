"""Token loss: what one draft position costs before it is weighted.

A token loss of one's own is one function and one line in `TOKEN_LOSSES`: `token_loss: mine` then
trains with it. `Part` says what the line may add. What the function gives where a position is not
supervised does not matter.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dpace_training.losses.config import LossConfig
from dpace_training.losses.part import Part
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


TOKEN_LOSSES: dict[str, Part[Callable[[BlockPredictions, LossConfig], PositionLoss]]] = {
    "ce": Part(cross_entropy, looks_ahead=False),
    "kl": Part(kl_divergence, looks_ahead=False, compares="distributions"),
    "tv": Part(total_variation, looks_ahead=False, compares="overlap"),
    "neg_log_acceptance": Part(negative_log_acceptance, looks_ahead=False, compares="overlap"),
    "lk_hybrid": Part(lk_hybrid, reads=("lk_eta",), looks_ahead=False, compares="overlap"),
}
