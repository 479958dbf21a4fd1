"""Sums over requests that two drafters both drafted for: what a paired difference rests on.

What a request does to both drafters alike cancels in a pair, but only if the sums keep how the two
go together: beside the six sums of each drafter, the four products between them. For request i with
accepted draft tokens y and verification steps m,

    r = sum y / sum m,   e_i = y_i - r m_i
    Var(r_a) = n / (n - 1) * sum e_ia^2 / (sum m_a)^2
    Cov(r_a, r_b) = n / (n - 1) * sum e_ia e_ib / (sum m_a sum m_b)

A position has the same sums, with the steps that accepted it as y and those that drafted it as m.

Source:
    Deng, Knoblich and Lu, "Applying the Delta Method in Metric Analytics", arXiv 1803.06336.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from dpace_serve.acceptance.estimate import Estimate, EstimatePair
from dpace_serve.acceptance.moments import AcceptanceMoments
from dpace_serve.acceptance.request import RequestAcceptance


@dataclass(frozen=True, slots=True)
class PairSums:
    """Sums over pairs of (y, m) under drafters a and b.

    Attributes:
        a: Sums of a alone.
        b: Sums of b alone, over the same requests.
        accepted_accepted: Sum of y_a * y_b.
        accepted_steps: Sum of y_a * m_b.
        steps_accepted: Sum of m_a * y_b.
        steps_steps: Sum of m_a * m_b.
    """

    a: AcceptanceMoments
    b: AcceptanceMoments
    accepted_accepted: int
    accepted_steps: int
    steps_accepted: int
    steps_steps: int

    @classmethod
    def zero(cls) -> Self:
        """Sums of no pair."""
        return cls(AcceptanceMoments.zero(), AcceptanceMoments.zero(), 0, 0, 0, 0)

    @classmethod
    def from_pairs(cls, a: Sequence[tuple[int, int]], b: Sequence[tuple[int, int]]) -> Self:
        """Sums of requests given as (y, m) under a, and in the same order under b.

        Raises:
            ValueError: If the lists differ in length.
        """
        if len(a) != len(b):
            raise ValueError(
                f"both drafters need the same requests, got {len(a)} and {len(b)}. "
                "Give one pair per request, in the same order."
            )
        rows = [(*of_a, *of_b) for of_a, of_b in zip(a, b, strict=True)]
        return cls(
            a=AcceptanceMoments.from_pairs(a),
            b=AcceptanceMoments.from_pairs(b),
            accepted_accepted=sum(y_a * y_b for y_a, _, y_b, _ in rows),
            accepted_steps=sum(y_a * m_b for y_a, _, _, m_b in rows),
            steps_accepted=sum(m_a * y_b for _, m_a, y_b, _ in rows),
            steps_steps=sum(m_a * m_b for _, m_a, _, m_b in rows),
        )

    def __add__(self, other: Self) -> Self:
        """Sums over both sets of pairs."""
        return type(self)(
            a=self.a + other.a,
            b=self.b + other.b,
            accepted_accepted=self.accepted_accepted + other.accepted_accepted,
            accepted_steps=self.accepted_steps + other.accepted_steps,
            steps_accepted=self.steps_accepted + other.steps_accepted,
            steps_steps=self.steps_steps + other.steps_steps,
        )

    def taus(self) -> EstimatePair:
        """Both drafters' 1 + r; nan below two pairs or without a step."""
        return EstimatePair(tau_estimate(self.a), tau_estimate(self.b), self._covariance())

    def rates(self) -> EstimatePair:
        """Both drafters' r; nan below two pairs or without a step."""
        return EstimatePair(rate_estimate(self.a), rate_estimate(self.b), self._covariance())

    def _covariance(self) -> float:
        pairs = self.a.requests
        if pairs < 2 or not (self.a.steps and self.b.steps):
            return math.nan
        # sum (y_a M_a - m_a Y_a)(y_b M_b - m_b Y_b) in integers, as in AcceptanceMoments, so that
        # equal drafters cancel to exactly nothing.
        spread = (
            self.a.steps * self.b.steps * self.accepted_accepted
            - self.a.steps * self.b.accepted * self.accepted_steps
            - self.a.accepted * self.b.steps * self.steps_accepted
            + self.a.accepted * self.b.accepted * self.steps_steps
        )
        return pairs * spread / ((pairs - 1) * self.a.steps**2 * self.b.steps**2)


@dataclass(frozen=True, slots=True)
class PairedMoments:
    """Sums over requests with a drafter that served them and another in its shadow.

    Attributes:
        total: With the accepted draft tokens and the steps of each request.
        positions: Of each draft position from 1, with the steps that accepted and that drafted it;
            requests in which neither drafter reached a position are not among its pairs.
    """

    total: PairSums
    positions: tuple[PairSums, ...]

    @classmethod
    def zero(cls, num_draft_tokens: int) -> Self:
        """Sums of no request."""
        return cls(PairSums.zero(), (PairSums.zero(),) * num_draft_tokens)

    @classmethod
    def from_requests(
        cls, a: RequestAcceptance, b: RequestAcceptance, num_draft_tokens: int
    ) -> Self:
        """Sums of one request.

        Args:
            a: Its record for the champion, counted.
            b: Its record for the challenger, counted.
            num_draft_tokens: Draft positions.

        Raises:
            ValueError: If the records are of two requests, one is excluded or without a step, or a
                step drafted more than `num_draft_tokens`.
        """
        if a.request_id != b.request_id:
            raise ValueError(
                f"a pair is two records of one request, got {a.request_id} and {b.request_id}."
            )
        require_counted(a)
        require_counted(b)
        reached = zip(
            position_pairs(a, num_draft_tokens), position_pairs(b, num_draft_tokens), strict=True
        )
        return cls(
            total=PairSums.from_pairs([(a.accepted, a.steps)], [(b.accepted, b.steps)]),
            positions=tuple(
                PairSums.from_pairs([of_a], [of_b]) if of_a[1] or of_b[1] else PairSums.zero()
                for of_a, of_b in reached
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

    @property
    def num_requests(self) -> tuple[int, int]:
        """Requests of a and of b: the pairs, twice."""
        return self.total.a.requests, self.total.b.requests

    def taus(self) -> EstimatePair:
        """Tau of both drafters, bonus token included."""
        return self.total.taus()

    def rates(self) -> tuple[EstimatePair, ...]:
        """Acceptance of each position under both drafters."""
        return tuple(sums.rates() for sums in self.positions)


def require_counted(request: RequestAcceptance) -> None:
    """Refuse a record that no statistics may hold.

    Raises:
        ValueError: If it is excluded or without a step.
    """
    if request.excluded or not request.steps:
        raise ValueError(
            f"a verdict sums counted requests with a step, got {request.request_id} with "
            f"{request.steps} steps, excluded as {request.excluded}. Leave it out."
        )


def position_pairs(request: RequestAcceptance, num_draft_tokens: int) -> list[tuple[int, int]]:
    """Steps of a request that accepted and that drafted each position, from position 1.

    Raises:
        ValueError: If a step drafted more than `num_draft_tokens`.
    """
    counts = request.counts(num_draft_tokens)
    return list(zip(counts.accepted, counts.drafted, strict=True))


def tau_estimate(moments: AcceptanceMoments) -> Estimate:
    """With the bonus token, 1 + r, as an estimate."""
    return Estimate(moments.tau, moments.tau_variance, moments.requests)


def rate_estimate(moments: AcceptanceMoments) -> Estimate:
    """Only r, without the bonus token, as an estimate."""
    return Estimate(moments.rate, moments.tau_variance, moments.requests)
