"""Fetches what shadows drafted for requests that have ended, some requests at a time."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
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
    """Hands each ended request back with the drafts of its shadows, once."""

    def __init__(self, take: Take, settle: Callable[[EndedRequest, TakenDrafts], None]) -> None:
        """Start with nothing to fetch.

        Args:
            take: Fetches, and makes the worker forget, the drafts of these requests, by key.
            settle: Called with each request and its drafts; without any where they are lost.
        """
        self._take = take
        self._settle = settle
        self._ended: deque[EndedRequest] = deque()
        self._task: asyncio.Task[None] | None = None

    def add(self, ended: EndedRequest) -> None:
        """Fetch the drafts of this request soon."""
        self._ended.append(ended)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._fetch_all())

    def close(self) -> None:
        """Give up what is not fetched yet: the engine is about to stop."""
        if self._task is not None:
            self._task.cancel()
        while self._ended:
            self._settle(self._ended.popleft(), {})

    async def _fetch_all(self) -> None:
        while self._ended:
            await asyncio.sleep(DELAY_SECONDS)
            batch = [self._ended[index] for index in range(min(len(self._ended), MAX_TAKEN))]
            taken = await self._fetch([ended.request.assignment.key for ended in batch])
            for ended in batch:
                self._ended.popleft()
                self._settle(ended, taken.get(ended.request.assignment.key, {}))

    async def _fetch(self, keys: list[int]) -> dict[int, TakenDrafts]:
        try:
            return await self._take(keys)
        except Exception as error:  # noqa: BLE001  (whatever the engine raises, no drafts come)
            logger.warning("drafts of %d shadowed requests are lost: %s", len(keys), error)
            return {}
