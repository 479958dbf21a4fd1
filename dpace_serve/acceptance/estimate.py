"""One quantity estimated for two drafters, and what separates them.

Both designs, paired and split, and both quantities, tau and the rate of a position, end here:
two values, their variances and their covariance. So weights and intervals have one rule each.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with the request as unit of its error.

    Attributes:
        value: The estimate; nan without data.
        variance: Square of its standard error; nan below two requests.
        requests: Requests behind it; of a weighted mean, as many equally weighted ones.
    """

    value: float
    variance: float
    requests: float

    @property
    def standard_error(self) -> float:
        """Root of the variance."""
        return math.sqrt(self.variance)


@dataclass(frozen=True, slots=True)
class EstimatePair:
    """The same quantity for drafters a and b.

    Attributes:
        a: Of the champion.
        b: Of the challenger.
        covariance: Of the two values; 0 where each request has one drafter only.
    """

    a: Estimate
    b: Estimate
    covariance: float

    @classmethod
    def weighted(cls, strata: Iterable[tuple[float, Self]]) -> Self:
        """Mean over independent strata with fixed weights (post-stratification).

        Args:
            strata: Weight, and the pair in this stratum; at least one. Weights are divided by
                their sum.
        """
        rows = list(strata)
        total = math.fsum(weight for weight, _ in rows)
        shares = [weight / total for weight, _ in rows]
        return cls(
            a=_weighted_mean(shares, [pair.a for _, pair in rows]),
            b=_weighted_mean(shares, [pair.b for _, pair in rows]),
            covariance=math.fsum(
                share * share * pair.covariance
                for share, (_, pair) in zip(shares, rows, strict=True)
            ),
        )

    def difference(self) -> Estimate:
        """The challenger's less the champion's."""
        return Estimate(
            self.b.value - self.a.value, self._variance_of_contrast(1.0, 1.0), self._requests
        )

    def log_ratio(self) -> Estimate:
        """Logarithm of the challenger's over the champion's, by the delta method; both above 0."""
        # d ln x = d x / x
        return Estimate(
            math.log(self.b.value / self.a.value),
            self._variance_of_contrast(1 / self.a.value, 1 / self.b.value),
            self._requests,
        )

    @property
    def _requests(self) -> float:
        return min(self.a.requests, self.b.requests)

    def _variance_of_contrast(self, scale_a: float, scale_b: float) -> float:
        variance = (
            scale_a * scale_a * self.a.variance
            + scale_b * scale_b * self.b.variance
            - 2 * (scale_a * scale_b * self.covariance)
        )
        # Drafters that differ in no request cancel to 0, give or take a rounding.
        return max(0.0, variance)


def _weighted_mean(shares: list[float], estimates: list[Estimate]) -> Estimate:
    rows = list(zip(shares, estimates, strict=True))
    # Kish's effective size, to which 1 / variance is proportional if the strata spread alike.
    size = 1 / math.fsum(share * share / row.requests for share, row in rows)
    return Estimate(
        value=math.fsum(share * row.value for share, row in rows),
        variance=math.fsum(share * share * row.variance for share, row in rows),
        requests=size,
    )
