"""The knee of a sweep: the highest load that a server keeps up with."""

from collections.abc import Sequence
from dataclasses import dataclass

MIN_ANSWERED_SHARE = 0.95
"""Answered over offered requests per second at which a server still counts as keeping up."""
MIN_LOADS = 2
"""Loads of a sweep; one alone has no knee."""


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """What a load of a sweep came to.

    Attributes:
        load: Offered, in requests/s.
        answered_share: Answered over offered while it was offered; none where that is unknown.
        goodput_share: Share of good requests; none without an SLO.
        is_saturated: Whether the generator itself fell behind.
    """

    load: float
    answered_share: float | None
    goodput_share: float | None
    is_saturated: bool


@dataclass(frozen=True, slots=True)
class Knee:
    """Where a sweep bends.

    Attributes:
        load: The highest load that was kept up with; none where there is none.
        is_above: Whether no higher load was tried, so that the knee lies at or above it.
        reason: What ended it, in one sentence.
    """

    load: float | None
    is_above: bool
    reason: str


def find_knee(points: Sequence[LoadPoint], min_goodput_share: float | None) -> Knee:
    """The highest load that holds, with every lower one.

    A load holds if the generator kept up, answered requests per second are at least
    `MIN_ANSWERED_SHARE` of the offered ones, and, where the SLO has limits, at least
    `min_goodput_share` of the requests kept them. A load that holds above one that does not is
    taken for luck.

    Args:
        points: Loads of one arm in an open loop, in any order.
        min_goodput_share: In (0, 1]; none does not ask for goodput.
    """
    if len(points) < MIN_LOADS:
        return Knee(None, False, f"A knee needs at least {MIN_LOADS} loads, got {len(points)}.")
    best: float | None = None
    for point in sorted(points, key=lambda point: point.load):
        failing = _failing(point, min_goodput_share)
        if failing is not None:
            return Knee(best, False, failing)
        best = point.load
    return Knee(best, True, f"The highest load, {best:g} requests/s, still holds; try higher ones.")


def _failing(point: LoadPoint, min_goodput_share: float | None) -> str | None:
    """Why a load does not hold; none if it does."""
    at = f"At {point.load:g} requests/s"
    if point.is_saturated:
        return f"{at} the load generator itself fell behind, so the server cannot be judged."
    if point.answered_share is None:
        return f"{at} too few requests were measured to tell the rate."
    if point.answered_share < MIN_ANSWERED_SHARE:
        return (
            f"{at} only {point.answered_share:.0%} of the offered rate was answered, less than "
            f"{MIN_ANSWERED_SHARE:.0%}."
        )
    share, least = point.goodput_share, min_goodput_share
    if share is not None and least is not None and share < least:
        return f"{at} only {share:.1%} of the requests kept the SLO, less than {least:.1%}."
    return None
