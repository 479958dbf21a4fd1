"""Windows: when an arm was measured at a load, and how many requests were in flight then."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dpace_loadtest.percentiles import Distribution
from dpace_loadtest.rows import RequestRow

MIN_OFFERED = 20
"""Requests from which a rate is told: with fewer, one that just ended or not decides."""


@dataclass(frozen=True, slots=True)
class Window:
    """One round of one arm at one load.

    Attributes:
        start_seconds: When its first measured request was to be sent.
        offered_until_seconds: When its last one was, not counting later turns of conversations.
        end_seconds: When the last of them had ended.
    """

    start_seconds: float
    offered_until_seconds: float
    end_seconds: float

    @property
    def seconds(self) -> float:
        """Its length, the running out included."""
        return self.end_seconds - self.start_seconds

    @property
    def offered_seconds(self) -> float:
        """For how long load was offered."""
        return self.offered_until_seconds - self.start_seconds


def measured_windows(rows: Iterable[RequestRow]) -> dict[int, Window]:
    """The window of each round, from the measured rows of one arm at one load."""
    rounds: dict[int, list[RequestRow]] = {}
    for row in rows:
        if row.phase == "measured":
            rounds.setdefault(row.round, []).append(row)
    return {
        number: Window(
            min(row.scheduled_seconds for row in of_round),
            _last_begun(of_round),
            max(row.ended_seconds for row in of_round),
        )
        for number, of_round in sorted(rounds.items())
    }


@dataclass(frozen=True, slots=True)
class Offered:
    """What was offered, and what of it was answered while it was.

    The running out after the last request is no part of it: with it even a server that keeps up
    would seem to fall behind, the more the shorter the run.

    Attributes:
        offered_per_second: Requests per second that were due, after the first measured one until
            the last one that began a conversation or stood alone.
        answered_per_second: Requests that ended ok in that time, begun in the warm-up or not.
    """

    offered_per_second: float
    answered_per_second: float

    @property
    def answered_share(self) -> float:
        """Answered over offered; somewhat above 1 by chance at times."""
        return self.answered_per_second / self.offered_per_second


def offered(rows: Sequence[RequestRow], windows: Mapping[int, Window]) -> Offered | None:
    """What was offered and answered; none with less than `MIN_OFFERED` requests.

    Requests are counted by when they were to be sent, later turns of conversations too. A turn is
    not due before the one before it has ended, so a slow server delays what conversations offer.
    A round without a warm-up is counted from one median latency after its start, but at most from
    its middle: before, nothing can have been answered yet, however fast the server is.

    Args:
        rows: Of one arm at one load, warm-up included.
        windows: Its windows.
    """
    seconds, num_offered, num_answered = 0.0, 0, 0
    for number, window in windows.items():
        of_round = [row for row in rows if row.round == number]
        start, end = _filled_from(of_round, window), window.offered_until_seconds
        seconds += end - start
        # Without the very start: n requests have n - 1 gaps between them.
        num_offered += sum(start < row.scheduled_seconds <= end for row in of_round)
        num_answered += sum(
            row.outcome == "ok" and start < row.ended_seconds <= end for row in of_round
        )
    if num_offered < MIN_OFFERED:
        return None
    return Offered(num_offered / seconds, num_answered / seconds)


def mean_in_flight(rows: Iterable[RequestRow], start: float, end: float) -> float:
    """Requests that were sent and had not ended, on average from `start` to `end` in seconds."""
    overlaps = (min(end, row.ended_seconds) - max(start, row.sent_seconds) for row in rows)
    return sum(overlap for overlap in overlaps if overlap > 0) / (end - start)


def _last_begun(rows: Sequence[RequestRow]) -> float:
    begun = [row.scheduled_seconds for row in rows if row.turn == 0]
    return max(begun or [row.scheduled_seconds for row in rows])


def _filled_from(rows: Sequence[RequestRow], window: Window) -> float:
    latency = Distribution.of(row.end_to_end_seconds for row in rows if row.outcome == "ok").p50
    if latency is None or any(row.phase == "warm_up" for row in rows):
        return window.start_seconds
    return window.start_seconds + min(latency, window.offered_seconds / 2)
