"""What is logged of an objective, and what its reductions still need: sums that add."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from dpace_training.losses.predictions import BlockPredictions


@dataclass(frozen=True, slots=True)
class ObjectiveStatistics:
    """Sums over supervised positions and counted blocks, float64 without gradient; they add."""

    positions: Float[Tensor, " positions"]
    """Supervised positions; only those up to the first error where the others cannot matter."""
    weight: Float[Tensor, " positions"]
    """Position weights."""
    token_loss: Float[Tensor, " positions"]
    """Unweighted token losses in nats."""
    correct: Float[Tensor, " positions"]
    """Positions whose most likely token is the label."""
    confidence: Float[Tensor, " positions"]
    """Drafter's probability of the label."""
    overlap: Float[Tensor, " positions"]
    """Overlap of drafter and target; zeros where the objective does not look at it."""
    blocks: Float[Tensor, ""]
    """Blocks with at least one supervised position."""
    leading_run: Float[Tensor, ""]
    """Supervised positions that are right up to the first wrong one, summed over blocks."""
    joint: Float[Tensor, ""]
    """Joint terms of the blocks, before their scale."""

    @classmethod
    def zero(cls, num_draft_tokens: int, device: torch.device) -> "ObjectiveStatistics":
        """The sums over nothing."""
        row = torch.zeros(num_draft_tokens, dtype=torch.float64, device=device)
        number = torch.zeros((), dtype=torch.float64, device=device)
        return cls(row, row, row, row, row, row, number, number, number)

    def __add__(self, other: "ObjectiveStatistics") -> "ObjectiveStatistics":
        return ObjectiveStatistics(
            *(getattr(self, field.name) + getattr(other, field.name) for field in fields(self))
        )

    def like(self, numbers: Float[Tensor, " numbers"]) -> "ObjectiveStatistics":
        """The same fields with other numbers, given one after another on the CPU."""
        sizes = [getattr(self, field.name).numel() for field in fields(self)]
        parts = torch.split(numbers, sizes)
        return ObjectiveStatistics(
            *(
                part.view(getattr(self, field.name).shape)
                for field, part in zip(fields(self), parts, strict=True)
            )
        )

    @property
    def weight_sum(self) -> Float[Tensor, ""]:
        """Sum of all weights: the denominator of the `weight_sum` reduction."""
        return self.weight.sum()

    @property
    def weight_share(self) -> Float[Tensor, " positions"]:
        """Each draft position's share of the total weight; the shares sum to 1."""
        return self.weight / self.weight_sum

    @property
    def mean_token_loss(self) -> Float[Tensor, " positions"]:
        """Mean token loss per draft position in nats; NaN where nothing was supervised."""
        return self.token_loss / self.positions

    @property
    def accuracy(self) -> Float[Tensor, " positions"]:
        """Share of right drafts per draft position; not acceptance, later ones count too."""
        return self.correct / self.positions

    @property
    def mean_confidence(self) -> Float[Tensor, " positions"]:
        """Mean probability of the label per draft position."""
        return self.confidence / self.positions

    @property
    def mean_overlap(self) -> Float[Tensor, " positions"]:
        """Mean chance that a sampled draft is accepted once all before it were."""
        return self.overlap / self.positions

    @property
    def mean_leading_run(self) -> Float[Tensor, ""]:
        """Mean number of right drafts before the first wrong one."""
        return self.leading_run / self.blocks

    @classmethod
    def of(
        cls,
        predictions: BlockPredictions,
        *,
        weights: Float[Tensor, "blocks positions"],
        token_loss: Float[Tensor, "blocks positions"],
        joint: Float[Tensor, " blocks"],
        with_overlap: bool,
    ) -> "ObjectiveStatistics":
        """The sums over one chunk of blocks; weights and losses are 0 where not supervised."""
        supervised = predictions.supervised
        correct = predictions.is_right & supervised
        leading = (correct | ~supervised).cumprod(dim=-1).bool() & supervised
        overlap = torch.zeros_like(token_loss)
        if with_overlap:
            overlap = predictions.require_agreement().overlap.detach()
        return cls(
            positions=supervised.double().sum(dim=0),
            weight=weights.double().sum(dim=0),
            token_loss=token_loss.double().sum(dim=0),
            correct=correct.double().sum(dim=0),
            confidence=(predictions.confidence.double() * supervised).sum(dim=0),
            overlap=(overlap.double() * supervised).sum(dim=0),
            blocks=supervised.any(dim=-1).double().sum(),
            leading_run=leading.double().sum(),
            joint=joint.double().sum(),
        )
