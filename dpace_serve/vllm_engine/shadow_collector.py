"""Fetches what shadows drafted for requests that have ended, some requests at a time."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.vllm_engine.bound_request import BoundRequest
from dpace_serve.vllm_engine.draft_log import TakenDrafts

logger = logging.getLogger(__name__)

DELAY_SECONDS = 0.1
"""How long ended requests are gathered: each call of the worker waits for the end of a step."""

MAX_TAKEN = 256
"""Requests of one call."""

Take = Callable[[list[int]], Awaitable[dict[int, TakenDrafts]]]


@dataclass(frozen=True, slots=True)
class EndedRequest:
    """A request whose shadows are still to be judged.

    Attributes:
        request: The request.
        served: Record of the drafter that served it; where it is excluded, so are the shadows.
    """

    request: BoundRequest
    served: RequestAcceptance


class ShadowCollector:
    """Hands each ended request back with the drafts of its shadows, once.

    Like what it hands requests to, it belongs to one thread, the event loop's.
    """

    def __init__(self, take: Take, settle: Callable[[EndedRequest, TakenDrafts], None]) -> None:
        """Start with nothing to fetch.

        Args:
            take: Fetches, and makes the worker forget, the drafts of these requests, by key.
            settle: Called with each request and its drafts; without any where they are lost.
        """
        self._take = take
        self._settle = settle
        self._waiting: deque[EndedRequest] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def add(self, ended: EndedRequest) -> None:
        """Fetch the drafts of this request soon; once closed, give them up at once."""
        if self._closing.is_set():
            self._settle(ended, {})
            return
        self._waiting.append(ended)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._fetch_all())

    async def aclose(self, timeout_seconds: float) -> None:
        """Fetch what waits now; give up what is not there in time, and all that comes later.

        Args:
            timeout_seconds: Longest wait for the worker.
        """
        self._closing.set()
        if self._task is not None and not self._task.done():
            _, late = await asyncio.wait({self._task}, timeout=timeout_seconds)
            if late:
                self._task.cancel()
                await asyncio.wait(late)
        while self._waiting:
            self._settle(self._waiting.popleft(), {})

    async def _fetch_all(self) -> None:
        while self._waiting:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), DELAY_SECONDS)
            # Off the queue before anything is awaited: nobody else can settle them too.
            size = min(len(self._waiting), MAX_TAKEN)
            batch = [self._waiting.popleft() for _ in range(size)]
            taken: dict[int, TakenDrafts] = {}
            try:
                taken = await self._fetch([ended.request.assignment.key for ended in batch])
            finally:  # where the wait was given up, without drafts
                for ended in batch:
                    self._settle(ended, taken.get(ended.request.assignment.key, {}))

    async def _fetch(self, keys: list[int]) -> dict[int, TakenDrafts]:
        try:
            return await self._take(keys)
        except Exception as error:  # noqa: BLE001  (whatever the engine raises, no drafts come)
            logger.warning("drafts of %d shadowed requests are lost: %s", len(keys), error)
            return {}
