"""What a drafter says at each draft position, as far as losses and weights look at it."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dpace_training.losses.cross_entropy import cross_entropy


@dataclass(frozen=True)
class Agreement:
    """Drafter and target side by side at each position; gradient runs through the drafter only.

    What an objective does not look at is not computed: on a large vocabulary each costs a pass over
    all logits.

    Attributes:
        draft_logits: Drafter's logits, divided by the temperature.
        target_logits: Target's logits of the same next token, divided by the temperature.
        target_probs: Their probabilities.
        most_likely: Drafter's most likely token.
    """

    draft_logits: Float[Tensor, "blocks positions vocab"]
    target_logits: Float[Tensor, "blocks positions vocab"]
    target_probs: Float[Tensor, "blocks positions vocab"]
    most_likely: Int[Tensor, "blocks positions"]

    @cached_property
    def overlap(self) -> Float[Tensor, "blocks positions"]:
        """Chance that a sampled draft is accepted, given that all before it were.

        It is the sum over tokens of the smaller of both models' probabilities.
        """
        return torch.minimum(self.draft_logits.softmax(dim=-1), self.target_probs).sum(dim=-1)

    @cached_property
    def greedy_acceptance(self) -> Float[Tensor, "blocks positions"]:
        """Target's probability of the drafter's most likely token."""
        return self.target_probs.gather(-1, self.most_likely.unsqueeze(-1)).squeeze(-1)

    @cached_property
    def divergence(self) -> Float[Tensor, "blocks positions"]:
        """Kullback-Leibler divergence of the drafter from the target in nats."""
        # Sums of probability times logit need neither model's log-probabilities, which would be
        # two more passes over the vocabulary.
        expected_logit = (self.target_probs * self.draft_logits).sum(dim=-1)
        cross_entropy = self.draft_logits.logsumexp(dim=-1) - expected_logit
        with torch.no_grad():
            highest = self.target_logits.max(dim=-1)
            likeliest = self.target_probs.gather(-1, highest.indices.unsqueeze(-1)).squeeze(-1)
            log_normaliser = highest.values - likeliest.log()
            # A target may rule a token out with minus infinity, and 0 times that is NaN.
            lowest = torch.finfo(self.target_logits.dtype).min
            expected = (self.target_probs * self.target_logits.clamp_min(lowest)).sum(dim=-1)
            entropy = log_normaliser - expected
        return cross_entropy - entropy


@dataclass(frozen=True, slots=True)
class BlockPredictions:
    """One chunk of blocks; unsupervised positions may hold anything.

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
            raise ValueError("this objective needs the target's states, got none. Pass `target`.")
        return self.agreement


def predict(
    logits: Float[Tensor, "blocks positions vocab"],
    labels: Int[Tensor, "blocks positions"],
    supervised: Bool[Tensor, "blocks positions"],
    target_logits: Float[Tensor, "blocks positions vocab"] | None,
    *,
    temperature: float,
) -> BlockPredictions:
    """Everything that weights and losses look at, computed in float32 or wider.

    Args:
        logits: The drafter's.
        labels: Token to predict; any token where not supervised.
        supervised: False where a position must not be trained on.
        target_logits: The target's, of the same tokens; only where the objective needs them.
        temperature: Of both distributions in the agreement; the label's probability has none.
    """
    wide = _widened(logits)
    losses, most_likely = cross_entropy(wide, labels)
    agreement = None
    if target_logits is not None:
        agreement = _agreement(wide, _widened(target_logits), most_likely, temperature)
    return BlockPredictions(
        cross_entropy=losses,
        is_right=most_likely == labels,
        supervised=supervised,
        agreement=agreement,
    )


def _agreement(
    logits: Float[Tensor, "blocks positions vocab"],
    target_logits: Float[Tensor, "blocks positions vocab"],
    most_likely: Int[Tensor, "blocks positions"],
    temperature: float,
) -> Agreement:
    if temperature != 1:
        logits, target_logits = logits / temperature, target_logits / temperature
    return Agreement(
        draft_logits=logits,
        target_logits=target_logits.detach(),
        target_probs=target_logits.detach().softmax(dim=-1),
        most_likely=most_likely,
    )


def _widened(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
