"""What a drafter says at each draft position, as far as losses and weights look at it."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from dpace_training.losses.cross_entropy import cross_entropy


@dataclass(frozen=True)
class TargetDistributions:
    """The target's distributions of the next token after some tokens, without gradient.

    Blocks of one text overlap, so many draft positions share a distribution; it is worked out once.

    Attributes:
        logits: The target's logits, divided by the temperature.
        rows: Which of them is that of each draft.
    """

    logits: Float[Tensor, "tokens vocab"]
    rows: Int[Tensor, " drafts"]

    @classmethod
    def of(
        cls,
        logits: Float[Tensor, "tokens vocab"],
        rows: Int[Tensor, " drafts"],
        *,
        temperature: float,
    ) -> "TargetDistributions":
        """From the target's own logits; in float32 or wider."""
        wide = widened(logits)
        return cls(wide if temperature == 1 else wide / temperature, rows)

    @cached_property
    def probs(self) -> Float[Tensor, "tokens vocab"]:
        """Their probabilities."""
        return self.logits.softmax(dim=-1)

    @cached_property
    def entropy(self) -> Float[Tensor, " tokens"]:
        """Their entropies in nats."""
        # The sum of probability times logit needs no log-probabilities, which would be another
        # pass over the vocabulary. A target may rule a token out with minus infinity, and 0 times
        # that is NaN.
        lowest = torch.finfo(self.logits.dtype).min
        expected_logit = (self.probs * self.logits.clamp_min(lowest)).sum(dim=-1)
        return self.logits.logsumexp(dim=-1) - expected_logit


@dataclass(frozen=True)
class Agreement:
    """Drafter and target side by side at each position; gradient runs through the drafter only.

    What an objective does not look at is not computed: on a large vocabulary each costs a pass over
    all logits.

    Attributes:
        draft_logits: Drafter's logits at the supervised positions, divided by the temperature.
        labels: A token of each of them, any.
        label_loss: Drafter's negative log-probability of it at the temperature, in nats.
        target: The target's distributions of the same next tokens.
        most_likely: Drafter's most likely token.
        supervised: Where these positions stand; elsewhere all that follows is 0.
    """

    draft_logits: Float[Tensor, "drafts vocab"]
    labels: Int[Tensor, " drafts"]
    label_loss: Float[Tensor, " drafts"]
    target: TargetDistributions
    most_likely: Int[Tensor, " drafts"]
    supervised: Bool[Tensor, "blocks positions"]

    @cached_property
    def overlap(self) -> Float[Tensor, "blocks positions"]:
        """Chance that a sampled draft is accepted, given that all before it were.

        It is the sum over tokens of the smaller of both models' probabilities.
        """
        draft_probs = self.draft_logits.softmax(dim=-1)
        target_probs = self.target.probs[self.target.rows]
        return placed(torch.minimum(draft_probs, target_probs).sum(dim=-1), self.supervised)

    @cached_property
    def greedy_acceptance(self) -> Float[Tensor, "blocks positions"]:
        """Target's probability of the drafter's most likely token."""
        return placed(self.target.probs[self.target.rows, self.most_likely], self.supervised)

    @cached_property
    def divergence(self) -> Float[Tensor, "blocks positions"]:
        """Kullback-Leibler divergence of the drafter from the target in nats."""
        # Cross-entropy to the target is that to the label, which is there already, minus the
        # difference of the two expected logits: one normaliser of the drafter serves both.
        shift = self.target.probs[self.target.rows]
        shift.scatter_add_(-1, self.labels.unsqueeze(-1), -torch.ones_like(shift[..., :1]))
        expected_shift: Tensor = torch.linalg.vecdot(shift, self.draft_logits)
        divergence = self.label_loss - expected_shift - self.target.entropy[self.target.rows]
        return placed(divergence, self.supervised)


@dataclass(frozen=True, slots=True)
class BlockPredictions:
    """One chunk of blocks; numbers at unsupervised positions mean nothing.

    Attributes:
        cross_entropy: Negative log-probability of each label in nats, with gradient.
        is_right: Whether the drafter's most likely token is the label.
        supervised: False where a position must not be trained on.
        agreement: With the target's distribution, where the objective looks at it.
    """

    cross_entropy: Float[Tensor, "blocks positions"]
    is_right: Bool[Tensor, "blocks positions"]
    supervised: Bool[Tensor, "blocks positions"]
    agreement: Agreement | None

    @property
    def confidence(self) -> Float[Tensor, "blocks positions"]:
        """Drafter's probability of the label, without gradient."""
        return torch.exp(-self.cross_entropy.detach())

    def require_agreement(self) -> Agreement:
        """The agreement, which the settings promised.

        Raises:
            ValueError: If the objective was given no distribution of the target.
        """
        if self.agreement is None:
            raise ValueError(
                "this objective needs the target's states, got none. Pass `target`; a part of your "
                "own must say what it `compares`."
            )
        return self.agreement


def predict(
    logits: Float[Tensor, "drafts vocab"],
    labels: Int[Tensor, " drafts"],
    supervised: Bool[Tensor, "blocks positions"],
    target: TargetDistributions | None,
    *,
    temperature: float,
) -> BlockPredictions:
    """Everything that weights and losses look at, computed in float32 or wider.

    Args:
        logits: The drafter's, at supervised positions only, block by block.
        labels: Token to predict at each of them.
        supervised: Where they stand.
        target: The target's, at the same temperature; only where the objective needs them.
        temperature: Of both distributions in the agreement; the label's probability has none.
    """
    wide = widened(logits)
    losses, most_likely = cross_entropy(wide, labels)
    agreement = None
    if target is not None:
        tempered = wide if temperature == 1 else wide / temperature
        label_loss = losses if temperature == 1 else cross_entropy(tempered, labels)[0]
        agreement = Agreement(tempered, labels, label_loss, target, most_likely, supervised)
    return BlockPredictions(
        cross_entropy=placed(losses, supervised),
        is_right=placed(most_likely == labels, supervised),
        supervised=supervised,
        agreement=agreement,
    )


def placed(
    drafts: Shaped[Tensor, " drafts"], supervised: Bool[Tensor, "blocks positions"]
) -> Shaped[Tensor, "blocks positions"]:
    """Values of the supervised positions at their places, zeros elsewhere."""
    nothing = torch.zeros(supervised.shape, dtype=drafts.dtype, device=drafts.device)
    return nothing.masked_scatter(supervised, drafts)


def widened(logits: Float[Tensor, "drafts vocab"]) -> Float[Tensor, "drafts vocab"]:
    """Logits in float32 or wider."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
