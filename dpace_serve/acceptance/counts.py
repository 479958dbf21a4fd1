"""Accepted and drafted tokens by draft position, as sums that can be added."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class AcceptanceCounts:
    """Accepted and drafted tokens of some verification steps, by draft position.

    Index i of a tuple is draft position i + 1. A step counts as drafted at every position up to
    its draft length, and as accepted at every position up to its accepted length: so a rate is
    the chance that *all* positions up to this one were accepted, given that it was drafted.

    Attributes:
        accepted: Steps that accepted this position.
        drafted: Steps that drafted this position; the denominator of its rate.
        steps: Verification steps with at least one drafted token.
        emitted: Tokens those steps put into answers, bonus tokens included.
    """

    accepted: tuple[int, ...]
    drafted: tuple[int, ...]
    steps: int
    emitted: int

    def __post_init__(self) -> None:
        """Refuse sums that no set of steps can have."""
        if not self.accepted or len(self.accepted) != len(self.drafted):
            raise ValueError(
                "accepted and drafted must cover the same positions, at least one, got "
                f"{len(self.accepted)} and {len(self.drafted)}. Give one number per position."
            )
        is_nested = all(
            0 <= accepted <= drafted <= self.steps
            for accepted, drafted in zip(self.accepted, self.drafted, strict=True)
        )
        if not (is_nested and _never_rises(self.accepted) and _never_rises(self.drafted)):
            raise ValueError(
                "each position needs 0 <= accepted <= drafted <= steps, and no position may exceed "
                f"the one before it, got {self.accepted}, {self.drafted}, {self.steps} steps. "
                "Build the counts with from_steps."
            )
        if self.emitted < 0:
            raise ValueError(f"emitted must not be negative, got {self.emitted}.")

    @classmethod
    def zero(cls, num_draft_tokens: int) -> Self:
        """Counts of nothing, from which sums start."""
        nothing = (0,) * num_draft_tokens
        return cls(accepted=nothing, drafted=nothing, steps=0, emitted=0)

    @classmethod
    def from_steps(
        cls,
        per_step_accepted: Sequence[int],
        per_step_drafted: Sequence[int],
        num_draft_tokens: int,
        emitted: int,
    ) -> Self:
        """Counts of the given verification steps.

        Args:
            per_step_accepted: Accepted draft tokens of each step.
            per_step_drafted: Drafted tokens of each step, at least one.
            num_draft_tokens: Positions to count, the most that a step may draft.
            emitted: Tokens that these steps put into answers.

        Raises:
            ValueError: If a step drafted none or too many, or accepted more than it drafted.
        """
        require_steps(per_step_accepted, per_step_drafted)
        longest = max(per_step_drafted, default=0)
        if longest > num_draft_tokens:
            raise ValueError(
                f"a step drafts at most num_draft_tokens = {num_draft_tokens}, got {longest}. "
                "Count with the number of draft tokens that the engine uses."
            )
        return cls(
            accepted=_reaching(per_step_accepted, num_draft_tokens),
            drafted=_reaching(per_step_drafted, num_draft_tokens),
            steps=len(per_step_drafted),
            emitted=emitted,
        )

    def __add__(self, other: Self) -> Self:
        """Counts of both sets of steps together."""
        if self.num_draft_tokens != other.num_draft_tokens:
            raise ValueError(
                "counts add only over the same number of positions, got "
                f"{self.num_draft_tokens} and {other.num_draft_tokens}. Keep them apart."
            )
        return type(self)(
            accepted=_add(self.accepted, other.accepted),
            drafted=_add(self.drafted, other.drafted),
            steps=self.steps + other.steps,
            emitted=self.emitted + other.emitted,
        )

    @property
    def num_draft_tokens(self) -> int:
        """Number of draft positions."""
        return len(self.drafted)

    @property
    def accepted_total(self) -> int:
        """Accepted draft tokens over all positions."""
        return sum(self.accepted)

    @property
    def drafted_total(self) -> int:
        """Drafted tokens over all positions."""
        return sum(self.drafted)

    @property
    def tau(self) -> float:
        """Emitted tokens per verification step, bonus token included; nan without a step.

        The bonus token of a step that was cut by the end of its answer is counted too: tau
        describes the drafter, not where the answers happened to stop.
        """
        return 1 + self.accepted_total / self.steps if self.steps else math.nan

    def rate_at(self, position: int) -> float:
        """Share of the steps that drafted `position` which accepted it and all before it.

        Args:
            position: Draft position, from 1.

        Returns:
            The rate in [0, 1]; nan where the position was never drafted.

        Raises:
            ValueError: If there is no such position.
        """
        if not 1 <= position <= self.num_draft_tokens:
            raise ValueError(
                f"draft positions run from 1 to {self.num_draft_tokens}, got {position}."
            )
        drafted = self.drafted[position - 1]
        return self.accepted[position - 1] / drafted if drafted else math.nan

    def conditional_rate_at(self, position: int) -> float:
        """Chance that `position` is accepted once all positions before it were.

        It is the ratio of two neighbouring rates. That is exact where every step drafted this
        position; where draft lengths vary it is an estimate, which may leave [0, 1] if the
        lengths depend on the acceptance.

        Args:
            position: Draft position, from 1; there it equals `rate_at(1)`.

        Returns:
            The conditional rate; nan where it is undefined.

        Raises:
            ValueError: If there is no such position.
        """
        rate = self.rate_at(position)
        if position == 1:
            return rate
        before = self.rate_at(position - 1)
        return rate / before if before else math.nan

    def rates(self) -> list[float]:
        """Rates of all positions, in order from position 1."""
        return [self.rate_at(position) for position in range(1, self.num_draft_tokens + 1)]


def require_steps(per_step_accepted: Sequence[int], per_step_drafted: Sequence[int]) -> None:
    """Refuse steps that no verification can have.

    Raises:
        ValueError: If the lists differ in length, or a step does not have
            0 <= accepted <= drafted and 1 <= drafted.
    """
    if len(per_step_accepted) != len(per_step_drafted):
        raise ValueError(
            "accepted and drafted must name the same steps, got "
            f"{len(per_step_accepted)} and {len(per_step_drafted)}. Record both at every step."
        )
    for step, (accepted, drafted) in enumerate(
        zip(per_step_accepted, per_step_drafted, strict=True), start=1
    ):
        if not (0 <= accepted <= drafted and drafted >= 1):
            raise ValueError(
                "a verification step drafts at least 1 token and accepts at most those, got "
                f"{accepted} of {drafted} in step {step}. Leave out steps that drafted nothing."
            )


def _reaching(lengths: Sequence[int], num_draft_tokens: int) -> tuple[int, ...]:
    # Each step is looked at once: a request may have thousands, and a load test as many requests.
    ending = Counter(lengths)
    from_the_end = itertools.accumulate(ending[length] for length in range(num_draft_tokens, 0, -1))
    return tuple(from_the_end)[::-1]


def _add(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(left, right, strict=True))


def _never_rises(values: tuple[int, ...]) -> bool:
    return all(later <= earlier for earlier, later in itertools.pairwise(values))
