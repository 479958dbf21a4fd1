"""Sums over the last seconds, kept in one piece per second."""

import math
from collections import deque
from collections.abc import Callable

from dpace_serve.metrics.decode_sums import DecodeSums


class DecodeWindow:
    """What was added in the last `seconds`, to the second; older pieces are forgotten."""

    def __init__(self, zero: DecodeSums, *, seconds: int, now: Callable[[], float]) -> None:
        """Start empty.

        Args:
            zero: Sums of nothing.
            seconds: Length of the window.
            now: The time, in seconds.
        """
        self._zero = zero
        self._seconds = seconds
        self._now = now
        self._pieces: deque[tuple[int, DecodeSums]] = deque()

    def add(self, sums: DecodeSums) -> None:
        """Add what happens now."""
        second = self._forget()
        if self._pieces and self._pieces[-1][0] == second:
            sums = self._pieces.pop()[1] + sums
        self._pieces.append((second, sums))

    def total(self) -> DecodeSums:
        """Everything in the window."""
        self._forget()
        return sum((sums for _, sums in self._pieces), self._zero)

    def _forget(self) -> int:
        """Drop what is too old, and what lies ahead of a clock that was set back."""
        second = math.floor(self._now())
        while self._pieces and self._pieces[0][0] <= second - self._seconds:
            self._pieces.popleft()
        while self._pieces and self._pieces[-1][0] > second:
            self._pieces.pop()
        return second
