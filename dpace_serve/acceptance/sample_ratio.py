"""Whether requests were split as configured, asked as often as one likes.

Requests drawn by a hash fall into the arms with the configured shares. If those that were counted
do not, requests of one arm were lost or left out more often than those of the other, and what is
left is no random sample: no number of the split means anything.

A chi-squared test that is repeated all day raises an alarm on healthy splits sooner or later. The
check here is a test martingale: the likelihood of the counts under a mixture of all shares, over
that under the configured ones. With N_i requests in arm i of K and the uniform (Dirichlet(1, ...,
1)) mixture, which favours no kind of deviation and has nothing to tune,

    E = (K - 1)! * prod N_i! / (N + K - 1)! / prod share_i^N_i

If the split is as configured, E ever reaches 1 / p with a chance of at most p, whenever one looks.

Source:
    Lindon and Malek, "Anytime-Valid Inference For Multinomial Count Data", arXiv 2011.03567.
"""

import math
from dataclasses import dataclass

MISMATCH_E_VALUE = 1000.0
"""Alarm: a healthy split ever gets there with a chance below 0.001."""


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """Requests counted in each arm, and the shares that were configured all the while.

    Shares must not have changed since the counts began: start anew when they do.

    Attributes:
        counts: Counted requests of each arm, at least two arms.
        shares: Configured share of each arm, in the same order; their sum is 1.
    """

    counts: tuple[int, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what is no split."""
        if len(self.counts) != len(self.shares) or len(self.counts) < 2 or min(self.counts) < 0:
            raise ValueError(
                "a split needs at least 2 arms with a count of 0 or more and a share each, got "
                f"{self.counts} and {self.shares}."
            )
        if min(self.shares) <= 0 or not math.isclose(math.fsum(self.shares), 1, abs_tol=1e-9):
            raise ValueError(
                f"shares must lie above 0 and sum to 1, got {self.shares}. Name every arm that "
                "serves, and no other."
            )

    @property
    def log_e_value(self) -> float:
        """Logarithm of E; 0 without a request."""
        log_mixture = (
            math.lgamma(len(self.counts))
            + math.fsum(math.lgamma(count + 1) for count in self.counts)
            - math.lgamma(sum(self.counts) + len(self.counts))
        )
        log_configured = math.fsum(
            count * math.log(share) for count, share in zip(self.counts, self.shares, strict=True)
        )
        return log_mixture - log_configured

    @property
    def is_mismatch(self) -> bool:
        """Whether the counts contradict the shares."""
        return self.log_e_value >= math.log(MISMATCH_E_VALUE)
