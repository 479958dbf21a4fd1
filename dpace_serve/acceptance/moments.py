"""Tau with an interval whose unit is the request, and two drafters paired on the same requests.

Steps of one request depend on each other, so neither tokens nor steps are independent
observations; requests are. With y_i accepted draft tokens and m_i verification steps of request i,

    r = sum y / sum m,   tau = 1 + r
    SE(tau)^2 = n / (n - 1) * sum (y_i - r m_i)^2 / (sum m)^2

which six sums over requests are enough for: they add over replicas and time, and are exported.

Source:
    The delta method for a ratio of means with clusters as units: Deng, Knoblich and Lu,
    "Applying the Delta Method in Metric Analytics", arXiv 1803.06336 (cluster randomization).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

from dpace_serve.acceptance.request import RequestAcceptance


@dataclass(frozen=True, slots=True)
class AcceptanceMoments:
    """Six sums over requests, from which tau and its interval follow.

    Attributes:
        requests: Number of requests n.
        accepted: Sum of y, accepted draft tokens.
        steps: Sum of m, verification steps.
        accepted_squared: Sum of y * y.
        steps_squared: Sum of m * m.
        accepted_steps: Sum of y * m.
    """

    requests: int
    accepted: int
    steps: int
    accepted_squared: int
    steps_squared: int
    accepted_steps: int

    @classmethod
    def zero(cls) -> Self:
        """Moments of no request, from which sums start."""
        return cls(0, 0, 0, 0, 0, 0)

    @classmethod
    def from_pair(cls, accepted: int, steps: int) -> Self:
        """Moments of one request."""
        return cls(1, accepted, steps, accepted * accepted, steps * steps, accepted * steps)

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[int, int]]) -> Self:
        """Moments of requests given as (accepted draft tokens, verification steps)."""
        rows = list(pairs)
        return cls(
            requests=len(rows),
            accepted=sum(accepted for accepted, _ in rows),
            steps=sum(steps for _, steps in rows),
            accepted_squared=sum(accepted * accepted for accepted, _ in rows),
            steps_squared=sum(steps * steps for _, steps in rows),
            accepted_steps=sum(accepted * steps for accepted, steps in rows),
        )

    @classmethod
    def from_requests(cls, requests: Iterable[RequestAcceptance]) -> Self:
        """Moments of finished requests."""
        return cls.from_pairs((request.accepted, request.steps) for request in requests)

    @classmethod
    def from_request(cls, request: RequestAcceptance) -> Self:
        """Moments of one finished request."""
        return cls.from_pair(request.accepted, request.steps)

    def __add__(self, other: Self) -> Self:
        """Moments of both sets of requests together."""
        return type(self)(
            requests=self.requests + other.requests,
            accepted=self.accepted + other.accepted,
            steps=self.steps + other.steps,
            accepted_squared=self.accepted_squared + other.accepted_squared,
            steps_squared=self.steps_squared + other.steps_squared,
            accepted_steps=self.accepted_steps + other.accepted_steps,
        )

    @property
    def rate(self) -> float:
        """Accepted per step, without the bonus token; nan without a step."""
        return self.accepted / self.steps if self.steps else math.nan

    @property
    def tau(self) -> float:
        """Tokens per verification step, bonus included; nan without a step."""
        return 1 + self.rate

    @property
    def tau_variance(self) -> float:
        """Square of `tau_standard_error`."""
        if self.requests < 2 or not self.steps:
            return math.nan
        # sum (y sum m - m sum y)^2 in integers: the textbook difference of floats cancels, and may
        # even turn negative, when requests are alike.
        spread = (
            self.accepted_squared * self.steps**2
            - 2 * self.accepted * self.steps * self.accepted_steps
            + self.accepted**2 * self.steps_squared
        )
        return self.requests * spread / ((self.requests - 1) * self.steps**4)

    @property
    def tau_standard_error(self) -> float:
        """Standard error of tau with the request as unit; nan below two requests."""
        return math.sqrt(self.tau_variance)

    def tau_interval(self, confidence: float) -> tuple[float, float]:
        """Normal interval of tau with the request as unit.

        It is symmetric and not clipped, so with few requests it may reach below 1. It holds when
        looked at once: watched all day until it pleases, it is too narrow.

        Args:
            confidence: Coverage in (0, 1), for example 0.95.

        Returns:
            Lower and upper bound; both nan below two requests.

        Raises:
            ValueError: If `confidence` is outside (0, 1).
        """
        reach = _normal_quantile(confidence) * self.tau_standard_error
        return self.tau - reach, self.tau + reach

    def share_interval(self, confidence: float) -> tuple[float, float]:
        """Normal interval of `rate` where it is a share, as of one draft position.

        With the request as unit, for one look, as that of tau; cut to [0, 1]. At a rate of 0 or 1
        there is none: no request then differs from another, and the interval would have no width,
        as if the next request could not differ either.

        Args:
            confidence: Coverage in (0, 1), for example 0.95.

        Returns:
            Lower and upper bound; both nan below two requests and at a rate of 0 or 1.

        Raises:
            ValueError: If `confidence` is outside (0, 1).
        """
        # The bonus token adds a constant: both have the same error.
        reach = _normal_quantile(confidence) * self.tau_standard_error
        if not 0 < self.rate < 1 or math.isnan(reach):
            return math.nan, math.nan
        return max(0.0, self.rate - reach), min(1.0, self.rate + reach)


@dataclass(frozen=True, slots=True)
class PairedRatio:
    """Ratio of two taus on the same requests, with its interval.

    Attributes:
        ratio: tau of b over tau of a; above 1, b is better.
        low: Lower bound.
        high: Upper bound.
    """

    ratio: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Difference of two taus on the same requests, with its interval.

    Attributes:
        difference: tau of b minus tau of a; above 0, b is better.
        low: Lower bound.
        high: Upper bound.
    """

    difference: float
    low: float
    high: float


def paired_tau_ratio(
    a: Sequence[tuple[int, int]], b: Sequence[tuple[int, int]], confidence: float
) -> PairedRatio:
    """Tau of b over tau of a on the same requests, with a paired interval.

    The delta method on L = ln tau_b - ln tau_a. The part of request i in the error of L is

        d_i = (y_ib - r_b m_ib) / (mean(m_b) tau_b) - (y_ia - r_a m_ia) / (mean(m_a) tau_a)

    with r = sum y / sum m and tau = 1 + r, so SE(L) = sd(d) / sqrt(n), with n - 1 inside sd, and
    the interval is exp(L -+ z SE(L)). What a request does to both drafters alike cancels in d_i;
    two separate intervals would keep it.

    Args:
        a: (accepted draft tokens, verification steps) of each request under drafter a.
        b: The same requests in the same order under drafter b.
        confidence: Coverage in (0, 1), for example 0.95.

    Returns:
        The ratio with its bounds. Bounds are nan below two requests, all is nan where a drafter
        has no step.

    Raises:
        ValueError: If the lists differ in length or `confidence` is outside (0, 1).
    """
    quantile = _normal_quantile(confidence)
    tau_a, tau_b = _paired_taus(a, b)
    ratio = tau_b / tau_a
    if len(a) < 2 or math.isnan(ratio):
        return PairedRatio(ratio, math.nan, math.nan)
    # d ln tau = d tau / tau
    parts_a = [part / tau_a for part in _tau_parts(a)]
    parts_b = [part / tau_b for part in _tau_parts(b)]
    reach = quantile * _paired_standard_error(parts_a, parts_b)
    return PairedRatio(ratio, ratio * math.exp(-reach), ratio * math.exp(reach))


def paired_tau_difference(
    a: Sequence[tuple[int, int]], b: Sequence[tuple[int, int]], confidence: float
) -> PairedDifference:
    """Tau of b minus tau of a on the same requests, with a paired interval.

    The delta method on D = tau_b - tau_a. The part of request i in the error of D is

        d_i = (y_ib - r_b m_ib) / mean(m_b) - (y_ia - r_a m_ia) / mean(m_a)

    with r = sum y / sum m, so SE(D) = sd(d) / sqrt(n), with n - 1 inside sd, and the interval is
    D -+ z SE(D).

    Args:
        a: (accepted draft tokens, verification steps) of each request under drafter a.
        b: The same requests in the same order under drafter b.
        confidence: Coverage in (0, 1), for example 0.95.

    Returns:
        The difference with its bounds. Bounds are nan below two requests, all is nan where a
        drafter has no step.

    Raises:
        ValueError: If the lists differ in length or `confidence` is outside (0, 1).
    """
    quantile = _normal_quantile(confidence)
    tau_a, tau_b = _paired_taus(a, b)
    difference = tau_b - tau_a
    if len(a) < 2 or math.isnan(difference):
        return PairedDifference(difference, math.nan, math.nan)
    reach = quantile * _paired_standard_error(_tau_parts(a), _tau_parts(b))
    return PairedDifference(difference, difference - reach, difference + reach)


def _paired_taus(a: Sequence[tuple[int, int]], b: Sequence[tuple[int, int]]) -> tuple[float, float]:
    if len(a) != len(b):
        raise ValueError(
            f"both drafters need the same requests, got {len(a)} and {len(b)}. "
            "Give one pair per request, in the same order."
        )
    return AcceptanceMoments.from_pairs(a).tau, AcceptanceMoments.from_pairs(b).tau


def _tau_parts(pairs: Sequence[tuple[int, int]]) -> list[float]:
    """Part of each request in the error of tau."""
    moments = AcceptanceMoments.from_pairs(pairs)
    extra = moments.accepted / moments.steps
    mean_steps = moments.steps / moments.requests
    return [(accepted - extra * steps) / mean_steps for accepted, steps in pairs]


def _paired_standard_error(parts_a: Sequence[float], parts_b: Sequence[float]) -> float:
    # The parts sum to zero by construction, so their mean needs no subtraction.
    squares = ((part_b - part_a) ** 2 for part_a, part_b in zip(parts_a, parts_b, strict=True))
    return math.sqrt(math.fsum(squares) / ((len(parts_a) - 1) * len(parts_a)))


def _normal_quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}. Use 0.95.")
    return NormalDist().inv_cdf(0.5 + confidence / 2)
