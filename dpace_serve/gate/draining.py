"""Drain: the server's last time, in which running answers finish and no new ones begin."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from http import HTTPStatus

from dpace_serve.gate.ended_answer import CLIENT_SECONDS, ENGINE_SECONDS, EndableAnswer, Ending

logger = logging.getLogger(__name__)

ENDING_SECONDS = CLIENT_SECONDS + 2 * ENGINE_SECONDS
"""Longest time between a drain's limit and the end of its last answer."""
RETRY_HEADERS = {"Retry-After": "1"}
"""Another server answers at once; this one takes a minute to come back."""

CUT_OFF = Ending(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The server stops, and this answer did not end in the time that was left. Send the request "
    "again.",
    RETRY_HEADERS,
)


class Drain:
    """Knows the answers that run, and whether new ones may begin.

    All of it belongs to one event loop's thread.

    Attributes:
        is_draining: Whether the server is about to stop.
    """

    def __init__(self) -> None:
        self.is_draining = False
        self._running: set[EndableAnswer] = set()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @contextlib.contextmanager
    def running(self, answer: EndableAnswer) -> Iterator[None]:
        """Count an answer as running meanwhile."""
        self._running.add(answer)
        self._is_idle.clear()
        try:
            yield
        finally:
            self._running.discard(answer)
            if not self._running:
                self._is_idle.set()

    def begin(self) -> None:
        """Let no new answer begin; beginning again changes nothing."""
        if not self.is_draining:
            self.is_draining = True
            logger.info("the server stops: %d answers still run", len(self._running))

    def end_all(self) -> None:
        """End all answers that run, with an error."""
        if self._running:
            logger.warning("%d answers are cut off: their time is over", len(self._running))
        for answer in tuple(self._running):
            answer.end(CUT_OFF)

    async def finish(self, limit_seconds: float) -> None:
        """Begin, and return when no answer runs: `ENDING_SECONDS` after the limit at the latest.

        Args:
            limit_seconds: How long answers may still take.
        """
        self.begin()
        try:
            async with asyncio.timeout(limit_seconds):
                await self._is_idle.wait()
        except TimeoutError:
            self.end_all()
            await self._is_idle.wait()
