"""VerdictHistory: how a verdict came about, in a bounded number of points."""

from typing import Any

from dpace_serve.acceptance.verdict import Verdict, lift_dict

MAX_POINTS = 240
"""Points kept; at this many every second one is left out, and from then on half as many taken."""


class VerdictHistory:
    """Verdicts by number of requests, evenly spaced over all of them."""

    def __init__(self) -> None:
        self._points: list[dict[str, Any]] = []
        self._stride = 1
        self._next = 0

    def wants(self, num_requests: int) -> bool:
        """Whether a verdict on so many requests of the smaller arm is due."""
        return num_requests >= self._next

    def add(self, time: float, num_requests: int, verdict: Verdict) -> None:
        """Keep a verdict; one without numbers shifts the next one and is not kept.

        Args:
            time: Seconds since the epoch.
            num_requests: Requests of the smaller arm.
            verdict: The verdict on them.
        """
        self._next = num_requests + self._stride
        interval = verdict.best_lift
        if interval is None:
            return
        self._points.append(
            {
                "time": time,
                "requests": num_requests,
                **lift_dict(interval),
                "decision": verdict.decision,
            }
        )
        if len(self._points) == MAX_POINTS:
            del self._points[1::2]
            self._stride *= 2

    def rows(self) -> list[dict[str, Any]]:
        """The points for JSON, oldest first; the interval is of tokens per second, else of tau."""
        return list(self._points)
