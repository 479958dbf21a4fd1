"""Gaps between the chunks of streams: those that a span of time touches, and the others.

A span touches long gaps more often than short ones, whatever happens in it. So spans are compared
with spans of the same lengths at other times, not with all other gaps alone.
"""

import statistics
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Span = tuple[float, float]
"""Begin and end on one clock, in seconds."""


@dataclass(frozen=True, slots=True)
class GapFigures:
    """Length of some gaps, in milliseconds; none where there is no gap."""

    num_gaps: int
    p50_ms: float | None
    p99_ms: float | None
    longest_ms: float | None

    @classmethod
    def of(cls, gaps: Sequence[Span]) -> "GapFigures":
        """The figures of these gaps."""
        if not gaps:
            return cls(0, None, None, None)
        lengths = [1e3 * (end - begin) for begin, end in gaps]
        # One value has no quantiles, but two equal ones have.
        percentiles = statistics.quantiles(
            lengths if len(lengths) > 1 else lengths * 2, n=100, method="inclusive"
        )
        return cls(len(gaps), percentiles[49], percentiles[98], max(lengths))


def split_gaps(gaps: Sequence[Span], spans: Sequence[Span]) -> tuple[list[Span], list[Span]]:
    """Gaps that some span touches, and those that none does.

    Args:
        gaps: In any order.
        spans: In the order of time, none of them overlapping another.
    """
    begins = [begin for begin, _ in spans]
    touched: list[Span] = []
    others: list[Span] = []
    for gap in gaps:
        # Spans do not overlap: the last that begins before the gap's end also ends last.
        index = bisect_right(begins, gap[1]) - 1
        (touched if index >= 0 and spans[index][1] >= gap[0] else others).append(gap)
    return touched, others


def spans_between(spans: Sequence[Span]) -> list[Span]:
    """For each span, one of its length in the middle of the time before the next; if it fits.

    Args:
        spans: In the order of time, none of them overlapping another.
    """
    between = []
    for (begin, end), (next_begin, _) in pairwise(spans):
        length, room = end - begin, next_begin - end
        if room > 2 * length:
            middle = (end + next_begin) / 2
            between.append((middle - length / 2, middle + length / 2))
    return between
