"""Sums over requests of which each had one drafter, drawn at random: two independent arms."""

from dataclasses import dataclass
from typing import Self

from dpace_serve.acceptance.counts import AcceptanceCounts
from dpace_serve.acceptance.estimate import EstimatePair
from dpace_serve.acceptance.moments import AcceptanceMoments
from dpace_serve.acceptance.paired_moments import (
    rate_estimate,
    require_counted,
    tau_estimate,
)
from dpace_serve.acceptance.request import RequestAcceptance


@dataclass(frozen=True, slots=True)
class ArmMoments:
    """Sums over the requests of one arm.

    Attributes:
        total: With the accepted draft tokens and the steps of each request.
        positions: Of each draft position from 1, with the steps that accepted and that drafted it
            in the place of accepted and steps; requests that never drafted it are left out.
    """

    total: AcceptanceMoments
    positions: tuple[AcceptanceMoments, ...]

    @classmethod
    def zero(cls, num_draft_tokens: int) -> Self:
        """Sums of no request."""
        return cls(AcceptanceMoments.zero(), (AcceptanceMoments.zero(),) * num_draft_tokens)

    @classmethod
    def from_request(cls, request: RequestAcceptance, num_draft_tokens: int) -> Self:
        """Sums of one request that is counted.

        Raises:
            ValueError: If it is excluded or without a step, or a step drafted more than
                `num_draft_tokens`.
        """
        require_counted(request)
        return cls.from_counts(request.counts(num_draft_tokens))

    @classmethod
    def from_counts(cls, counts: AcceptanceCounts) -> Self:
        """Sums of one request that is counted, with these counts."""
        nothing = AcceptanceMoments.zero()
        return cls(
            total=AcceptanceMoments.from_pair(counts.accepted_total, counts.steps),
            positions=tuple(
                AcceptanceMoments.from_pair(accepted, drafted) if drafted else nothing
                for accepted, drafted in zip(counts.accepted, counts.drafted, strict=True)
            ),
        )

    def __add__(self, other: Self) -> Self:
        """Sums over both sets of requests; both must have the same positions."""
        return type(self)(
            self.total + other.total,
            tuple(
                left + right for left, right in zip(self.positions, other.positions, strict=True)
            ),
        )


@dataclass(frozen=True, slots=True)
class SplitMoments:
    """The champion's arm and a challenger's, over the same time.

    Attributes:
        a: Requests that the champion served.
        b: Requests that the challenger served.
    """

    a: ArmMoments
    b: ArmMoments

    def __add__(self, other: Self) -> Self:
        """Sums over both sets of requests."""
        return type(self)(self.a + other.a, self.b + other.b)

    @property
    def num_requests(self) -> tuple[int, int]:
        """Requests of a and of b."""
        return self.a.total.requests, self.b.total.requests

    def taus(self) -> EstimatePair:
        """Tau of both drafters, bonus token included."""
        return EstimatePair(tau_estimate(self.a.total), tau_estimate(self.b.total), 0.0)

    def rates(self) -> tuple[EstimatePair, ...]:
        """Acceptance of each position under both drafters."""
        return tuple(
            EstimatePair(rate_estimate(of_a), rate_estimate(of_b), 0.0)
            for of_a, of_b in zip(self.a.positions, self.b.positions, strict=True)
        )
