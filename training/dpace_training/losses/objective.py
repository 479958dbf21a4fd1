"""The objective over blocks, a chunk at a time, so that all logits never exist at once."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dpace_training.config import LossConfig
from dpace_training.losses.token_loss import cross_entropy
from dpace_training.losses.weighting import WEIGHTINGS, WeightFn


@dataclass(frozen=True, slots=True)
class ObjectiveStatistics:
    """Sums over supervised positions and counted blocks, float64 without gradient; they add."""

    positions: Float[Tensor, " positions"]
    """Supervised positions."""
    weight: Float[Tensor, " positions"]
    """Position weights."""
    token_loss: Float[Tensor, " positions"]
    """Unweighted token losses in nats."""
    correct: Float[Tensor, " positions"]
    """Positions whose most likely token is the label."""
    confidence: Float[Tensor, " positions"]
    """Drafter's probability of the label."""
    blocks: Float[Tensor, ""]
    """Blocks with at least one supervised position."""
    leading_run: Float[Tensor, ""]
    """Supervised positions that are right up to the first wrong one, summed over blocks."""

    @classmethod
    def zero(cls, num_draft_tokens: int, device: torch.device) -> "ObjectiveStatistics":
        """The sums over nothing."""
        row = torch.zeros(num_draft_tokens, dtype=torch.float64, device=device)
        number = torch.zeros((), dtype=torch.float64, device=device)
        return cls(row, row, row, row, row, number, number)

    def __add__(self, other: "ObjectiveStatistics") -> "ObjectiveStatistics":
        return ObjectiveStatistics(
            *(getattr(self, field.name) + getattr(other, field.name) for field in fields(self))
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
    def mean_leading_run(self) -> Float[Tensor, ""]:
        """Mean number of right drafts before the first wrong one."""
        return self.leading_run / self.blocks


def block_objective(
    hidden: Float[Tensor, "blocks positions hidden"],
    head_weight: Float[Tensor, "vocab hidden"],
    labels: Int[Tensor, "blocks positions"],
    supervised: Bool[Tensor, "blocks positions"],
    block_scale: Float[Tensor, " blocks"],
    loss: LossConfig,
    num_draft_tokens: int,
) -> tuple[Float[Tensor, ""], ObjectiveStatistics]:
    """Sum of scale times weighted token losses over blocks, and what to log about it.

    Positions run over the draft positions only: the anchor's hidden state is not passed. Blocks
    without a supervised position cost nothing, and neither they nor unsupervised positions reach
    the loss or the gradient, even if they hold NaN. With no block left the loss is 0 and
    still has a (zero) gradient.

    Args:
        hidden: Drafter's last hidden states, after the final norm.
        head_weight: The target's LM head.
        labels: Token to predict; any value where not supervised.
        supervised: False where a position must not be trained on.
        block_scale: Factor of each block, from `reduction.block_scales`.
        loss: What to minimise, and how many blocks' logits may exist at once.
        num_draft_tokens: Draft positions of a whole block.

    Returns:
        The loss with gradient, and statistics that add over chunks, micro-batches and ranks.
    """
    weigh = WEIGHTINGS[loss.weighting](loss, num_draft_tokens)
    counted = supervised.any(dim=-1)
    supervised, block_scale = supervised[counted], block_scale[counted]
    # Filled before the head, because 0 * NaN in its backward pass would still be NaN.
    hidden = hidden[counted].masked_fill(~supervised.unsqueeze(-1), 0)
    labels = labels[counted].masked_fill(~supervised, 0)

    per_block = (hidden, labels, supervised, block_scale)
    chunks = list(
        zip(*(torch.split(part, loss.blocks_per_chunk) for part in per_block), strict=True)
    )
    # Without a counted block there is one empty chunk, so the loss still has a graph.
    losses = []
    statistics = ObjectiveStatistics.zero(num_draft_tokens, hidden.device)
    for chunk_hidden, chunk_labels, chunk_supervised, chunk_scale in chunks:
        arguments = (
            chunk_hidden, head_weight, chunk_labels, chunk_supervised, chunk_scale, weigh,
        )  # fmt: skip
        if len(chunks) == 1:
            # One chunk's logits exist in any case: recomputing them would save nothing.
            chunk_loss, sums = _chunk_objective(*arguments)
        else:
            chunk_loss, sums = checkpoint(
                _chunk_objective, *arguments, use_reentrant=False, preserve_rng_state=False
            )
        losses.append(chunk_loss)
        statistics = statistics + sums
    return torch.stack(losses).sum(), statistics


def _chunk_objective(
    hidden: Float[Tensor, "blocks positions hidden"],
    head_weight: Float[Tensor, "vocab hidden"],
    labels: Int[Tensor, "blocks positions"],
    supervised: Bool[Tensor, "blocks positions"],
    block_scale: Float[Tensor, " blocks"],
    weigh: WeightFn,
) -> tuple[Float[Tensor, ""], ObjectiveStatistics]:
    logits = hidden @ head_weight.T
    token_loss = cross_entropy(logits, labels)
    confidence = torch.exp(-token_loss.detach())
    weights = weigh(confidence, supervised)
    block_losses = (weights * token_loss).masked_fill(~supervised, 0).sum(dim=-1)
    total = (block_scale.to(block_losses.dtype) * block_losses).sum()
    with torch.no_grad():
        correct = (logits.argmax(dim=-1) == labels) & supervised
        statistics = _statistics(token_loss, confidence, weights, correct, supervised)
    return total, statistics


def _statistics(
    token_loss: Float[Tensor, "blocks positions"],
    confidence: Float[Tensor, "blocks positions"],
    weights: Float[Tensor, "blocks positions"],
    correct: Bool[Tensor, "blocks positions"],
    supervised: Bool[Tensor, "blocks positions"],
) -> ObjectiveStatistics:
    leading = (correct | ~supervised).cumprod(dim=-1).bool() & supervised
    return ObjectiveStatistics(
        positions=supervised.double().sum(dim=0),
        weight=weights.double().sum(dim=0),
        token_loss=(token_loss.double() * supervised).sum(dim=0),
        correct=correct.double().sum(dim=0),
        confidence=(confidence.double() * supervised).sum(dim=0),
        blocks=supervised.any(dim=-1).double().sum(),
        leading_run=leading.double().sum(),
    )
