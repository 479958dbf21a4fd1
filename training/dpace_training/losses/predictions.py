"""What a drafter says at each draft position, as far as losses and weights look at it."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Agreement:
    """Drafter and target side by side at each position; gradient runs through the drafter only.

    Attributes:
        draft_log_probs: Drafter's log-probabilities.
        target_probs: Target's probabilities of the same next token.
        overlap: Chance that a draft sampled from the one is accepted by the other, given that
            all before it were: the sum over tokens of the smaller probability.
        greedy_acceptance: Target's probability of the drafter's most likely token.
    """

    draft_log_probs: Float[Tensor, "blocks positions vocab"]
    target_probs: Float[Tensor, "blocks positions vocab"]
    overlap: Float[Tensor, "blocks positions"]
    greedy_acceptance: Float[Tensor, "blocks positions"]


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
    losses = functional.cross_entropy(wide.flatten(0, 1), labels.flatten(), reduction="none")
    most_likely = logits.detach().argmax(dim=-1)
    agreement = None
    if target_logits is not None:
        agreement = _agreement(wide, _widened(target_logits), most_likely, temperature)
    return BlockPredictions(
        cross_entropy=losses.view(labels.shape),
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
    draft_log_probs = functional.log_softmax(logits / temperature, dim=-1)
    target_probs = functional.softmax(target_logits.detach() / temperature, dim=-1)
    return Agreement(
        draft_log_probs=draft_log_probs,
        target_probs=target_probs,
        overlap=torch.minimum(draft_log_probs.exp(), target_probs).sum(dim=-1),
        greedy_acceptance=target_probs.gather(-1, most_likely.unsqueeze(-1)).squeeze(-1),
    )


def _widened(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
