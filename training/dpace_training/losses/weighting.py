"""Position weights: how much each draft position of a block counts in the loss.

Weights run over draft positions 1..num_draft_tokens (the anchor has no column) and carry no
gradient. A position that is not supervised gets weight 0 and is a no-op for the others: it neither
ends the chain of confidences nor shifts the index of later positions.

A weighting of one's own is one function and one line in `WEIGHTINGS`: `weighting: mine` then trains
with it. `Part` says what the line may add. What the function gives where a position is not
supervised does not matter, nor does its gradient. A number of its own comes with
`functools.partial`, or as one more field of `LossConfig` that the entry `reads`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dpace_training.losses.config import DpaceVariant, LossConfig
from dpace_training.losses.part import Part
from dpace_training.losses.predictions import BlockPredictions

PositionWeights = Float[Tensor, "blocks positions"]


def uniform_weights(
    confidence: Float[Tensor, "blocks positions"],
    supervised: Bool[Tensor, "blocks positions"],
) -> Float[Tensor, "blocks positions"]:
    """Weigh every supervised position by 1: the baseline without a hyper-parameter."""
    return supervised.to(confidence.dtype)


def exp_decay_weights(
    confidence: Float[Tensor, "blocks positions"],
    supervised: Bool[Tensor, "blocks positions"],
    *,
    gamma: float,
) -> Float[Tensor, "blocks positions"]:
    """Weigh draft position k by `exp(-(k - 1) / gamma)`, whatever the drafter does.

    Args:
        confidence: Only its dtype and device are used.
        supervised: False where a position must not be trained on.
        gamma: Decay length in positions, above 0.

    Source:
        DFlash, arXiv 2602.06036.
    """
    offsets = torch.arange(supervised.shape[-1], dtype=confidence.dtype, device=confidence.device)
    return torch.exp(-offsets / gamma) * supervised


def dpace_weights(
    confidence: Float[Tensor, "blocks positions"],
    supervised: Bool[Tensor, "blocks positions"],
    *,
    alpha: float,
    variant: DpaceVariant,
) -> Float[Tensor, "blocks positions"]:
    """Weigh each position by the smoothed number of accepted tokens that hang on it.

    With `s = (1 - alpha) * confidence + alpha` (1 where not supervised) and the running product
    P, the weight at k is the sum of P over the supervised positions from k on. It factors into
    P at k, the chance to get there, and the continuation value of being right there.

    Args:
        confidence: Drafter's probability of the label, in [0, 1].
        supervised: False where a position must not be trained on.
        alpha: Smoothing in [0, 1], inside the weight only; 1 ignores the confidence.
        variant: `full`, or one of its two factors alone (the paper's ablations).

    Source:
        D-PACE, arXiv 2605.18810.
    """
    smoothed = (1 - alpha) * confidence.detach() + alpha
    # `where`, not a product with the mask: an unsupervised confidence may be NaN.
    factors = torch.where(supervised, smoothed, torch.ones_like(smoothed))
    cumulative = factors.log().cumsum(dim=-1).exp()
    credit = cumulative * supervised
    if variant == "cumulative_only":
        return credit
    suffix_sum = credit.flip(-1).cumsum(dim=-1).flip(-1)
    if variant == "continuation_only":
        tiny = torch.finfo(cumulative.dtype).tiny
        suffix_sum = suffix_sum / cumulative.clamp_min(tiny)
    return suffix_sum * supervised


def reach_weights(
    acceptance: Float[Tensor, "blocks positions"],
    supervised: Bool[Tensor, "blocks positions"],
) -> Float[Tensor, "blocks positions"]:
    """Weigh each position by the chance that decoding gets there: all before it accepted.

    Args:
        acceptance: Chance that a position is accepted once all before it were, in [0, 1].
        supervised: False where a position must not be trained on.
    """
    factors = torch.where(supervised, acceptance.detach(), torch.ones_like(acceptance))
    reached = factors.cumprod(dim=-1).roll(1, dims=-1)
    reached[:, 0] = 1
    return reached * supervised


def first_error(
    is_right: Bool[Tensor, "blocks positions"], supervised: Bool[Tensor, "blocks positions"]
) -> Bool[Tensor, "blocks positions"]:
    """The first supervised position whose draft is wrong; nowhere in a block that is all right."""
    is_wrong = supervised & ~is_right
    return is_wrong & (is_wrong.cumsum(dim=-1) == 1)


def until_first_error(
    is_right: Bool[Tensor, "blocks positions"], supervised: Bool[Tensor, "blocks positions"]
) -> Bool[Tensor, "blocks positions"]:
    """Supervised positions up to and with the first wrong draft: those that decoding settles.

    Source:
        Accept-until-fail, arXiv 2607.01893.
    """
    num_wrong = (supervised & ~is_right).cumsum(dim=-1)
    is_after = (num_wrong > 0) & ~first_error(is_right, supervised)
    return supervised & ~is_after


def position_weights(predictions: BlockPredictions, loss: LossConfig) -> PositionWeights:
    """The objective's weights: by name, cut to the support, first error raised; no gradient.

    Source:
        Bonus of the first error: focal term of arXiv 2606.11552.
    """
    is_right, supervised = predictions.is_right, predictions.supervised
    weights = WEIGHTINGS[loss.weighting].function(predictions, loss)
    weights = weights.masked_fill(~supervised, 0)
    if loss.support == "until_first_error":
        weights = weights * until_first_error(is_right, supervised)
    if loss.first_error_bonus:
        bonus = first_error(is_right, supervised).to(weights.dtype)
        weights = weights + loss.first_error_bonus * bonus
    return weights.detach()


def _uniform(predictions: BlockPredictions, loss: LossConfig) -> PositionWeights:  # noqa: ARG001 (one table, one form)
    return uniform_weights(predictions.confidence, predictions.supervised)


def _exp_decay(predictions: BlockPredictions, loss: LossConfig) -> PositionWeights:
    gamma = loss.resolved_gamma(predictions.supervised.shape[-1])
    return exp_decay_weights(predictions.confidence, predictions.supervised, gamma=gamma)


def _dpace(predictions: BlockPredictions, loss: LossConfig) -> PositionWeights:
    confidence = predictions.confidence
    if loss.confidence == "overlap":
        confidence = predictions.require_agreement().overlap
    return dpace_weights(confidence, predictions.supervised, alpha=loss.alpha, variant=loss.variant)


def _reach(predictions: BlockPredictions, loss: LossConfig) -> PositionWeights:  # noqa: ARG001 (one table, one form)
    acceptance = predictions.require_agreement().greedy_acceptance
    return reach_weights(acceptance, predictions.supervised)


WEIGHTINGS: dict[str, Part[Callable[[BlockPredictions, LossConfig], PositionWeights]]] = {
    "uniform": Part(_uniform, looks_ahead=False),
    "exp_decay": Part(_exp_decay, reads=("gamma",), looks_ahead=False),
    "dpace": Part(_dpace, reads=("alpha", "variant", "confidence")),
    "reach": Part(_reach, looks_ahead=False, compares="distributions"),
}
