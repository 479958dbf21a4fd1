"""The one rule for percentiles, on the raw values."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

PERCENTS = (50, 90, 95, 99)


def percentile(in_order: Sequence[float], percent: float) -> float:
    """Value below which `percent` of the values lie, between its two neighbours in proportion.

    With n values in order, x_0 to x_(n-1), it is the value at place (n - 1) * percent / 100, and
    between two places in proportion: the rule of `numpy.percentile` and of `vllm bench serve`.

    Args:
        in_order: At least one value, ascending.
        percent: In [0, 100].
    """
    place = (len(in_order) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(in_order) - 1)
    return in_order[low] + (in_order[high] - in_order[low]) * (place - low)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Mean and percentiles of the values that are known; none of them where there are no values.

    Attributes:
        count: Values. With fewer than 100 the p99 is next to the largest one.
        mean: Their mean.
        p50: Median.
        p90: 90th percentile.
        p95: 95th percentile.
        p99: 99th percentile.
        largest: The largest.
    """

    count: int
    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    largest: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Self:
        """Of the values that are not None."""
        known = sorted(value for value in values if value is not None)
        if not known:
            return cls(0, None, None, None, None, None, None)
        p50, p90, p95, p99 = (percentile(known, percent) for percent in PERCENTS)
        return cls(len(known), math.fsum(known) / len(known), p50, p90, p95, p99, known[-1])
