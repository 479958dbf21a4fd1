"""Position weights: how much each draft position of a block counts in the loss.

Every function maps the drafter's confidence in the label and the supervised mask, both over draft
positions 1..num_draft_tokens (the anchor has no column), to weights without gradient. A position
that is not supervised gets weight 0 and is a no-op for the others: it neither ends the chain of
confidences nor shifts the index of later positions.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dpace_training.config import DpaceVariant, LossConfig, WeightingName

WeightFn = Callable[[Tensor, Tensor], Tensor]


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


# From the loss settings and num_draft_tokens to the function that weighs.
WEIGHTINGS: dict[WeightingName, Callable[[LossConfig, int], WeightFn]] = {
    "uniform": lambda loss, num_draft_tokens: uniform_weights,  # noqa: ARG005 (one table, one form)
    "exp_decay": lambda loss, num_draft_tokens: partial(
        exp_decay_weights, gamma=loss.resolved_gamma(num_draft_tokens)
    ),
    "dpace": lambda loss, num_draft_tokens: partial(  # noqa: ARG005 (one table, one form)
        dpace_weights, alpha=loss.alpha, variant=loss.variant
    ),
}
