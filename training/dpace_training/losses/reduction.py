"""Reductions: how the weighted losses of all blocks become the one number that is minimised.

Each named reduction gives every block a factor *before* the first forward pass, from masks alone;
the total is the sum of factor times block loss. So it adds over chunks of blocks, accumulation
steps and ranks, provided that the counts in the denominators are those of the whole optimizer
step: add up `ReductionCounts` over micro-batches and ranks first. Where the framework averages
gradients over ranks, multiply the loss by the number of ranks.

`weight_sum` is the exception, because its denominator, the sum of all weights, is known only
after the forward pass. It takes two numbers: its factors are 1, so that the loss is the bare
numerator, and the sum of weights comes out of the objective's statistics. The weights carry no
gradient, so dividing the accumulated gradient (before clipping) and the loss by the global weight
sum is exact. A joint term has no weights: it is divided by the number of counted blocks instead.
As it lies in the same numerator, its scale is multiplied by sum of weights / counted blocks first
(`joint_per_block`), for which the weights of the whole step must be known before its first backward
pass: one more forward pass, without gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from dpace_training.losses.config import LossConfig, ReductionName


@dataclass(frozen=True, slots=True)
class ReductionCounts:
    """What the denominators count, over one micro-batch or over all of an optimizer step."""

    sequences: int
    """Documents, with or without anything to learn from."""
    documents: int
    """Documents with at least one counted block."""
    blocks: int
    """Counted blocks: those with at least one supervised position."""
    positions: int
    """Supervised positions."""

    @classmethod
    def of(cls, supervised: Bool[Tensor, "documents blocks positions"]) -> "ReductionCounts":
        """Count one micro-batch; rows that are no document at all must not be in it."""
        counted = supervised.any(dim=-1)
        return cls(
            sequences=supervised.shape[0],
            documents=int(counted.any(dim=-1).sum()),
            blocks=int(counted.sum()),
            positions=int(supervised.sum()),
        )

    def __add__(self, other: "ReductionCounts") -> "ReductionCounts":
        return ReductionCounts(
            sequences=self.sequences + other.sequences,
            documents=self.documents + other.documents,
            blocks=self.blocks + other.blocks,
            positions=self.positions + other.positions,
        )


def block_scales(
    supervised: Bool[Tensor, "documents blocks positions"],
    *,
    reduction: ReductionName,
    totals: ReductionCounts,
) -> Float[Tensor, "documents blocks"]:
    """Factor of each block's loss in the total, in float64; 0 for a block that is not counted.

    Args:
        supervised: Supervised positions of one micro-batch; a document's blocks are all in its row.
        reduction: Name of the reduction.
        totals: Counts of the whole optimizer step, over all micro-batches and ranks.
    """
    counted = supervised.any(dim=-1).double()
    return REDUCTIONS[reduction](counted, totals)


def needs_weight_sum(reduction: ReductionName) -> bool:
    """True if loss and gradient have yet to be divided by the global sum of weights."""
    return reduction == "weight_sum"


def needs_weights_first(loss: LossConfig) -> bool:
    """True if the sum of weights must be known before the loss: see `joint_per_block`."""
    return needs_weight_sum(loss.reduction) and loss.has_joint_term


def joint_per_block(loss: LossConfig, *, weight_sum: float, totals: ReductionCounts) -> LossConfig:
    """The objective whose joint term is divided by counted blocks, once all is by the weight sum.

    Args:
        loss: An objective that `needs_weights_first`.
        weight_sum: Sum of all weights of the optimizer step.
        totals: Counts of the optimizer step.
    """
    scale = loss.resolved_joint_scale * weight_sum / max(totals.blocks, 1)
    return loss.model_copy(update={"joint_scale": scale})


def _anchor_seq(
    counted: Float[Tensor, "documents blocks"], totals: ReductionCounts
) -> Float[Tensor, "documents blocks"]:
    per_document = counted.sum(dim=-1, keepdim=True).clamp_min(1)
    return counted / (per_document * max(totals.documents, 1))


def _batch(
    counted: Float[Tensor, "documents blocks"], totals: ReductionCounts
) -> Float[Tensor, "documents blocks"]:
    return counted / max(totals.sequences, 1)


def _weight_sum(
    counted: Float[Tensor, "documents blocks"],
    totals: ReductionCounts,  # noqa: ARG001 (one table, one form)
) -> Float[Tensor, "documents blocks"]:
    return counted


def _token(
    counted: Float[Tensor, "documents blocks"], totals: ReductionCounts
) -> Float[Tensor, "documents blocks"]:
    return counted / max(totals.positions, 1)


def _block(
    counted: Float[Tensor, "documents blocks"], totals: ReductionCounts
) -> Float[Tensor, "documents blocks"]:
    return counted / max(totals.blocks, 1)


REDUCTIONS: dict[ReductionName, Callable[[Tensor, ReductionCounts], Tensor]] = {
    "anchor_seq": _anchor_seq,
    "batch": _batch,
    "weight_sum": _weight_sum,
    "token": _token,
    "block": _block,
}
