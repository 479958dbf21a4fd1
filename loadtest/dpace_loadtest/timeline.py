"""How a run went over time: requests in flight, time to the first token, tokens per second."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dpace_loadtest.percentiles import percentile
from dpace_loadtest.rows import RequestRow

MAX_BINS = 240
"""Points of a timeline, so that a page stays small whatever the run."""
_BIN_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)


@dataclass(frozen=True, slots=True)
class TimelineBin:
    """One arm in one piece of time, warm-up included.

    Attributes:
        start_seconds: Since the start of the run.
        in_flight: Requests sent and not ended, on average.
        ttft_p50: Median time to the first token of ok requests scheduled in it; none without one.
        ttft_p95: 95th percentile of the same.
        tokens_per_second: Completion tokens of ok requests that ended in it, as the server counts.
        num_failed: Requests that ended in it and failed.
    """

    start_seconds: float
    in_flight: float
    ttft_p50: float | None
    ttft_p95: float | None
    tokens_per_second: float
    num_failed: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """The bins of one arm, from its first to its last request.

    Attributes:
        arm: Name of the arm.
        bin_seconds: Length of a bin.
        bins: In order of time; pieces in which nothing of the arm ran are among them.
    """

    arm: str
    bin_seconds: float
    bins: tuple[TimelineBin, ...]


def timelines(rows: Sequence[RequestRow], arms: Sequence[str]) -> tuple[Timeline, ...]:
    """One timeline for each arm that sent a request; all have bins of one length."""
    if not rows:
        return ()
    end = max(row.ended_seconds for row in rows)
    length = next(
        (size for size in _BIN_SECONDS if end / size <= MAX_BINS), max(1.0, end / MAX_BINS)
    )
    of_arms = ((arm, [row for row in rows if row.arm == arm]) for arm in arms)
    return tuple(_timeline(arm, of_arm, length) for arm, of_arm in of_arms if of_arm)


def _timeline(arm: str, rows: Sequence[RequestRow], length: float) -> Timeline:
    num_bins = math.floor(max(row.ended_seconds for row in rows) / length) + 1
    busy = [0.0] * num_bins
    tokens = [0] * num_bins
    failed = [0] * num_bins
    ttfts: list[list[float]] = [[] for _ in range(num_bins)]
    for row in rows:
        ended = math.floor(row.ended_seconds / length)
        for index in range(max(0, math.floor(row.sent_seconds / length)), ended + 1):
            start = max(row.sent_seconds, index * length)
            busy[index] += min(row.ended_seconds, (index + 1) * length) - start
        if row.outcome != "ok":
            failed[ended] += 1
            continue
        tokens[ended] += row.completion_tokens or 0
        ttft = row.ttft_from_schedule_seconds
        if ttft is not None:
            ttfts[max(0, math.floor(row.scheduled_seconds / length))].append(ttft)
    first = max(0, math.floor(min(row.scheduled_seconds for row in rows) / length))
    bins = (
        TimelineBin(
            start_seconds=index * length,
            in_flight=busy[index] / length,
            ttft_p50=percentile(sorted(ttfts[index]), 50) if ttfts[index] else None,
            ttft_p95=percentile(sorted(ttfts[index]), 95) if ttfts[index] else None,
            tokens_per_second=tokens[index] / length,
            num_failed=failed[index],
        )
        for index in range(first, num_bins)
    )
    return Timeline(arm, length, tuple(bins))
