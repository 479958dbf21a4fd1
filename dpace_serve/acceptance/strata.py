"""Workloads with fixed weights, or all of them pooled, as one pair of estimates.

Tau of a drafter is then the mean of its taus over workloads, each weight understood as the
workload's share of the verification steps (post-stratification). Pooled, an arm that happened to
get more of an easy workload looks better than it is.
"""

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

from dpace_serve.acceptance.estimate import EstimatePair


class ComparedMoments(Protocol):
    """Sums over requests of two drafters, paired or split, as far as a verdict looks at them."""

    def __add__(self, other: Self, /) -> Self:
        """Sums over both sets of requests."""

    @property
    def num_requests(self) -> tuple[int, int]:
        """Requests of the champion and of the challenger."""

    def taus(self) -> EstimatePair:
        """Tau of both drafters."""

    def rates(self) -> tuple[EstimatePair, ...]:
        """Acceptance of each position under both drafters."""


MomentsT = TypeVar("MomentsT", bound=ComparedMoments)


@dataclass(frozen=True, slots=True)
class Stratum:
    """Requests that enter with one weight.

    Attributes:
        workload: Their workload; none for all of them together.
        weight: Above 0.
        moments: Their sums; none before the first request.
    """

    workload: str | None
    weight: float
    moments: ComparedMoments | None

    @property
    def num_requests(self) -> tuple[int, int]:
        """Requests of the champion and of the challenger."""
        return (0, 0) if self.moments is None else self.moments.num_requests


def stratify(
    workloads: Mapping[str, MomentsT], weights: Mapping[str, float] | None
) -> tuple[Stratum, ...]:
    """The strata that a verdict rests on, at least one.

    Args:
        workloads: Sums of each workload.
        weights: Weight of each workload that counts; the others are left out. None pools all.

    Raises:
        ValueError: If a weight is negative, or none is above 0.
    """
    if weights is None:
        pooled = functools.reduce(operator.add, workloads.values()) if workloads else None
        return (Stratum(None, 1.0, pooled),)
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()):
        raise ValueError(f"weights of workloads must be 0 or more, got {dict(weights)}.")
    strata = tuple(
        Stratum(workload, weight, workloads.get(workload))
        for workload, weight in weights.items()
        if weight > 0
    )
    if not strata:
        raise ValueError(
            f"weights need a workload with one above 0, got {dict(weights)}. "
            "Give none to pool all requests."
        )
    return strata


def total_requests(strata: Sequence[Stratum]) -> tuple[int, int]:
    """Requests of the champion and of the challenger in all strata."""
    return (
        sum(stratum.num_requests[0] for stratum in strata),
        sum(stratum.num_requests[1] for stratum in strata),
    )


def weighted_taus(strata: Sequence[Stratum]) -> EstimatePair:
    """Tau of both drafters over strata that all have requests."""
    return EstimatePair.weighted(
        (stratum.weight, stratum.moments.taus())
        for stratum in strata
        if stratum.moments is not None
    )


def weighted_rates(
    strata: Sequence[Stratum], minimum_requests: int
) -> tuple[EstimatePair | None, ...]:
    """Rates of both drafters at each position, from 1; none without enough requests somewhere."""
    rates = [stratum.moments.rates() for stratum in strata if stratum.moments is not None]
    weights = [stratum.weight for stratum in strata]
    return tuple(
        EstimatePair.weighted(zip(weights, pairs, strict=True))
        if all(min(pair.a.requests, pair.b.requests) >= minimum_requests for pair in pairs)
        else None
        for pairs in zip(*rates, strict=True)
    )
