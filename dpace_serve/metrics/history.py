"""How the sums have grown: a bounded list of what they were, a point every few seconds."""

from collections import deque
from collections.abc import Callable
from typing import Any

INTERVAL_SECONDS = 10
MAX_POINTS = 361
"""An hour of traffic without a pause."""


class SumsHistory:
    """Points are taken while something is counted, so an idle server neither works nor forgets.

    Each point is a whole state of sums that only grow: differences of neighbours are what happened
    between them, and a point that was left out is in the next one.
    """

    def __init__(self, take: Callable[[], dict[str, Any]], now: Callable[[], float]) -> None:
        """Start with the sums as they are.

        Args:
            take: The sums now, for JSON.
            now: The time, in seconds since 1970.
        """
        self._take = take
        self._now = now
        self._points: deque[dict[str, Any]] = deque(maxlen=MAX_POINTS)
        self._has_news = False
        self._add(now())

    def note(self) -> None:
        """Say that something was counted; a point is taken where one is due."""
        self._has_news = True
        self._add_if_due()

    def to_dict(self) -> dict[str, Any]:
        """All points, the oldest first."""
        if self._has_news:
            self._add_if_due()
        return {"interval_seconds": INTERVAL_SECONDS, "points": list(self._points)}

    def _add_if_due(self) -> None:
        time = self._now()
        # A clock that was set back must not stop the points.
        if abs(time - self._points[-1]["time"]) >= INTERVAL_SECONDS:
            self._add(time)

    def _add(self, time: float) -> None:
        self._points.append({"time": time, **self._take()})
        self._has_news = False
