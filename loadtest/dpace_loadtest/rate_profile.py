"""A rate over time, and when it has brought a number of arrivals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from dpace_serve.config import Config


class ProfilePoint(Config):
    """The rate at one moment of a load."""

    seconds: Annotated[float, Field(ge=0)]
    """Seconds after the start of the load."""
    share: Annotated[float, Field(ge=0, le=1000)]
    """The rate then, as a multiple of the load."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A part of the time with a linear rate; rates in requests/s."""

    begin_seconds: float
    seconds: float
    first_rate: float
    last_rate: float
    arrivals_before: float

    @property
    def num_arrivals(self) -> float:
        return self.seconds * (self.first_rate + self.last_rate) / 2

    def moment_of(self, count: float) -> float:
        """When `count` arrivals have come, counted from the start of the load."""
        wanted = count - self.arrivals_before
        slope = (self.last_rate - self.first_rate) / self.seconds
        # Root of first * t + slope * t^2 / 2 = wanted, in the form that is exact at slope 0 too.
        root = math.sqrt(max(0.0, self.first_rate**2 + 2 * slope * wanted))
        return self.begin_seconds + 2 * wanted / (self.first_rate + root)


class RateProfile:
    """Piecewise linear rate; before the first point and after the last it stays as there.

    Args:
        points: Points in the order of time; none is a constant rate.
        rate: Requests/s at share 1.
    """

    def __init__(self, points: Sequence[ProfilePoint], *, rate: float) -> None:
        self._stretches: list[_Stretch] = []
        before = 0.0
        corners = [(point.seconds, point.share * rate) for point in points] or [(0.0, rate)]
        for (begin, first), (end, last) in zip(
            [(0.0, corners[0][1]), *corners], corners, strict=False
        ):
            if end > begin:
                stretch = _Stretch(begin, end - begin, first, last, before)
                self._stretches.append(stretch)
                before += stretch.num_arrivals
        self._end_seconds, self._end_rate = corners[-1]
        self._before_end = before

    def moment_of(self, count: float) -> float:
        """Seconds from the start after which `count` arrivals have come; 0 arrivals take none."""
        for stretch in self._stretches:
            # Equal counts belong to the next stretch only if this one brings none of them.
            if count <= stretch.arrivals_before + stretch.num_arrivals and stretch.num_arrivals > 0:
                return stretch.moment_of(count) if count > 0 else stretch.begin_seconds
        return self._end_seconds + (count - self._before_end) / self._end_rate
