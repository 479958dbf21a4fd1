"""Whether a load had settled while it was measured: its first half against its second."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dpace_loadtest.percentiles import Distribution
from dpace_loadtest.rows import RequestRow
from dpace_loadtest.windows import Window, mean_in_flight

MAX_CHANGE = 1.5
"""Factor by which a half may differ from the other; a queue that grows from nothing triples."""
MIN_IN_FLIGHT_CHANGE = 1.0
"""Requests in flight by which the halves must differ too: of a few, chance alone makes many."""
MIN_REQUESTS = 20
"""Ok requests that each half needs; with fewer chance alone changes a median that much."""


@dataclass(frozen=True, slots=True)
class Steadiness:
    """Second half over first half, by the scheduled time; none where it cannot be said.

    Attributes:
        in_flight_change: Of the mean number of requests in flight.
        latency_change: Of the median end-to-end time of ok requests.
        is_steady: Whether neither changed by more than the factor `MAX_CHANGE`, up or down; a
            change of less than `MIN_IN_FLIGHT_CHANGE` requests in flight is none.
    """

    in_flight_change: float | None
    latency_change: float | None
    is_steady: bool | None


def steadiness(rows: Sequence[RequestRow], windows: Mapping[int, Window]) -> Steadiness:
    """Compare the halves of every round, all rounds together.

    Args:
        rows: Of one arm at one load, warm-up included.
        windows: Its windows.
    """
    first, second = _Half(), _Half()
    for number, window in windows.items():
        if not window.offered_seconds:
            continue
        middle = (window.start_seconds + window.offered_until_seconds) / 2
        of_round = [row for row in rows if row.round == number]
        for row in of_round:
            if row.phase == "measured" and row.outcome == "ok":
                half = first if row.scheduled_seconds < middle else second
                half.latencies.append(row.end_to_end_seconds)
        first.in_flight += mean_in_flight(of_round, window.start_seconds, middle)
        second.in_flight += mean_in_flight(of_round, middle, window.offered_until_seconds)
    in_flight = _ratio(second.in_flight, first.in_flight)
    latency = _ratio(second.median_latency, first.median_latency)
    is_known = min(len(first.latencies), len(second.latencies)) >= MIN_REQUESTS
    if in_flight is None or latency is None or not is_known:
        return Steadiness(in_flight, latency, None)
    num_more = abs(second.in_flight - first.in_flight) / len(windows)
    has_same_number = _is_alike(in_flight) or num_more <= MIN_IN_FLIGHT_CHANGE
    return Steadiness(in_flight, latency, has_same_number and _is_alike(latency))


class _Half:
    def __init__(self) -> None:
        self.in_flight = 0.0
        self.latencies: list[float] = []

    @property
    def median_latency(self) -> float | None:
        return Distribution.of(self.latencies).p50


def _is_alike(change: float) -> bool:
    return 1 / MAX_CHANGE <= change <= MAX_CHANGE


def _ratio(second: float | None, first: float | None) -> float | None:
    return second / first if first and second is not None else None
