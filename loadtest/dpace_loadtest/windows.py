"""Windows: when an arm was measured at a load, and how many requests were in flight then."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dpace_loadtest.rows import RequestRow


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
    """What was offered and answered; none where no time passed between two requests.

    Requests are counted by when they were to be sent, later turns of conversations too. A turn is
    not due before the one before it has ended, so a slow server delays what conversations offer.

    Args:
        rows: Of one arm at one load, warm-up included.
        windows: Its windows.
    """
    seconds = sum(window.offered_seconds for window in windows.values())
    num_offered = sum(_is_within(row.scheduled_seconds, windows.get(row.round)) for row in rows)
    if not seconds or not num_offered:
        return None
    num_answered = sum(
        row.outcome == "ok" and _is_within(row.ended_seconds, windows.get(row.round))
        for row in rows
    )
    return Offered(num_offered / seconds, num_answered / seconds)


def mean_in_flight(rows: Iterable[RequestRow], start: float, end: float) -> float:
    """Requests that were sent and had not ended, on average from `start` to `end` in seconds."""
    overlaps = (min(end, row.ended_seconds) - max(start, row.sent_seconds) for row in rows)
    return sum(overlap for overlap in overlaps if overlap > 0) / (end - start)


def _last_begun(rows: Sequence[RequestRow]) -> float:
    begun = [row.scheduled_seconds for row in rows if row.turn == 0]
    return max(begun or [row.scheduled_seconds for row in rows])


def _is_within(seconds: float, window: Window | None) -> bool:
    return window is not None and window.start_seconds < seconds <= window.offered_until_seconds
