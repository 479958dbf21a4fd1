"""What one arm and workload has counted; the one set of numbers behind every output."""

import math
from dataclasses import dataclass
from typing import Any, Self

from dpace_serve.acceptance.counts import AcceptanceCounts
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.acceptance.split_moments import ArmMoments


@dataclass(frozen=True, slots=True)
class AcceptanceSums:
    """Counts, moments and unsettled positions of some finished requests.

    Attributes:
        counts: Accepted and drafted tokens by position.
        moments: Sums over requests for tau, the rates by position, and their intervals.
        unsettled_drafted: Drafted positions past the ends of answers.
        unsettled_accepted: Those of them that the engine had accepted.
    """

    counts: AcceptanceCounts
    moments: ArmMoments
    unsettled_drafted: int
    unsettled_accepted: int

    @classmethod
    def zero(cls, num_draft_tokens: int) -> Self:
        """Sums of no request."""
        return cls(AcceptanceCounts.zero(num_draft_tokens), ArmMoments.zero(num_draft_tokens), 0, 0)

    @classmethod
    def from_request(cls, request: RequestAcceptance, num_draft_tokens: int) -> Self:
        """Sums of one finished request.

        Raises:
            ValueError: If a step drafted more than `num_draft_tokens`.
        """
        counts = request.counts(num_draft_tokens)
        return cls(
            counts,
            ArmMoments.from_counts(counts),
            request.unsettled_drafted,
            request.unsettled_accepted,
        )

    def __add__(self, other: Self) -> Self:
        """Sums of both sets of requests together."""
        return type(self)(
            self.counts + other.counts,
            self.moments + other.moments,
            self.unsettled_drafted + other.unsettled_drafted,
            self.unsettled_accepted + other.unsettled_accepted,
        )

    def to_dict(self, confidence: float) -> dict[str, Any]:
        """The sums and what follows from them for JSON; what is undefined is null.

        Args:
            confidence: Coverage of the intervals, in (0, 1).
        """
        total = self.moments.total
        low, high = total.tau_interval(confidence)
        by_position = [moments.share_interval(confidence) for moments in self.moments.positions]
        return {
            "requests": total.requests,
            "steps": self.counts.steps,
            "emitted_tokens": self.counts.emitted,
            "tau": _null_if_nan(total.tau),
            "tau_low": _null_if_nan(low),
            "tau_high": _null_if_nan(high),
            "accepted_per_position": [_null_if_nan(rate) for rate in self.counts.rates()],
            "accepted_per_position_low": [_null_if_nan(low) for low, _ in by_position],
            "accepted_per_position_high": [_null_if_nan(high) for _, high in by_position],
            "accepted": list(self.counts.accepted),
            "drafted": list(self.counts.drafted),
            "unsettled": {"drafted": self.unsettled_drafted, "accepted": self.unsettled_accepted},
        }


def _null_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
