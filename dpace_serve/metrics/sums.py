"""What one arm and workload has counted; the one set of numbers behind every output."""

import math
from dataclasses import dataclass
from typing import Any, Self

from dpace_serve.acceptance.counts import AcceptanceCounts
from dpace_serve.acceptance.moments import AcceptanceMoments
from dpace_serve.acceptance.request import RequestAcceptance


@dataclass(frozen=True, slots=True)
class AcceptanceSums:
    """Counts, moments and unsettled positions of some finished requests.

    Attributes:
        counts: Accepted and drafted tokens by position.
        moments: Sums over requests for tau and its interval.
        unsettled_drafted: Drafted positions past the ends of answers.
        unsettled_accepted: Those of them that the engine had accepted.
    """

    counts: AcceptanceCounts
    moments: AcceptanceMoments
    unsettled_drafted: int
    unsettled_accepted: int

    @classmethod
    def zero(cls, num_draft_tokens: int) -> Self:
        """Sums of no request."""
        return cls(AcceptanceCounts.zero(num_draft_tokens), AcceptanceMoments.zero(), 0, 0)

    @classmethod
    def from_request(cls, request: RequestAcceptance, num_draft_tokens: int) -> Self:
        """Sums of one finished request.

        Raises:
            ValueError: If a step drafted more than `num_draft_tokens`.
        """
        return cls(
            request.counts(num_draft_tokens),
            AcceptanceMoments.from_request(request),
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
            confidence: Coverage of the interval of tau, in (0, 1).
        """
        low, high = self.moments.tau_interval(confidence)
        return {
            "requests": self.moments.requests,
            "steps": self.counts.steps,
            "emitted_tokens": self.counts.emitted,
            "tau": _null_if_nan(self.moments.tau),
            "tau_low": _null_if_nan(low),
            "tau_high": _null_if_nan(high),
            "accepted_per_position": [_null_if_nan(rate) for rate in self.counts.rates()],
            "accepted": list(self.counts.accepted),
            "drafted": list(self.counts.drafted),
            "unsettled": {"drafted": self.unsettled_drafted, "accepted": self.unsettled_accepted},
        }


def _null_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
