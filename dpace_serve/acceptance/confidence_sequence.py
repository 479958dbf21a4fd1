"""Intervals that hold however often one looks at them.

A normal interval covers the truth with 95 % at one moment that was chosen before. Watched all day
until it excludes 0, it excludes it sooner or later. A confidence sequence covers the truth at all
moments together, at the price of width. With a standard error SE after n requests,

    half-width = SE * sqrt( 2 (x + 1) / x * ln( sqrt(x + 1) / alpha ) ),   x = n rho^2
    rho^2 = ( -2 ln alpha + ln(-2 ln alpha + 1) ) / n0

which is narrowest, against SE, near the planned n0: at alpha = 0.05 it is 3.04 SE there, and below
3.4 SE from n0 / 5 to 20 n0. It is asymptotic, as the normal interval is: it needs a start of
some tens of requests. And it needs an n to which 1 / SE^2 is proportional. In a split the smaller n
of the two arms is that exactly as long as the shares stay the same; whatever they do, n SE^2 lies
between one arm's variance and the sum of both.

Source:
    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and
    asymptotic confidence sequences", arXiv 2103.06476: theorem 2.2, and rho as they tune it.
"""

import math
from dataclasses import dataclass

from dpace_serve.acceptance.estimate import Estimate

_ENDLESS = 1e9  # times the requests that there are: nobody waits for that


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its bounds."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ConfidenceSequence:
    """Half-widths that hold at all times together.

    Attributes:
        alpha: Chance in (0, 1) that the truth is ever outside.
        planned_requests: Requests n0 at which the interval is narrowest against its error.
    """

    alpha: float
    planned_requests: int

    def half_width(self, standard_error: float, requests: float) -> float:
        """Half the width of the interval after so many requests, at least one."""
        surprise = -2 * math.log(self.alpha)
        time = requests * (surprise + math.log1p(surprise)) / self.planned_requests
        # 2 ln(x / alpha) with x the root of time + 1
        crossing = math.log1p(time) + surprise
        return standard_error * math.sqrt((time + 1) / time * crossing)

    def around(self, estimate: Estimate) -> Interval:
        """The interval around an estimate; symmetric and not clipped."""
        reach = self.half_width(estimate.standard_error, estimate.requests)
        return Interval(estimate.value, estimate.value - reach, estimate.value + reach)

    def growth_until(self, estimate: Estimate, half_width: float) -> float:
        """How many times the requests the interval needs to be as narrow as this.

        Args:
            estimate: Today's; its variance per request is taken to stay what it is.
            half_width: The one to be reached, above 0.

        Returns:
            A factor of at least 1, to one in a thousand; infinite where it is a billion or more.
        """

        def is_wide(factor: float) -> bool:
            error = estimate.standard_error / math.sqrt(factor)
            return self.half_width(error, estimate.requests * factor) > half_width

        if is_wide(_ENDLESS):
            return math.inf
        low, high = 1.0, _ENDLESS
        if not is_wide(low):
            return low
        while high > 1.001 * low:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if is_wide(middle) else (low, middle)
        return high
