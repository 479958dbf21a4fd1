"""Operations: swap, challenge, promote and drop in a running server, one at a time."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, Protocol

from dpace_serve.errors import BusyError, SwapError
from dpace_serve.live.admission import Admission, DrafterRequest
from dpace_serve.live.fleet import Fleet
from dpace_serve.live.hosted import Candidate, Role

logger = logging.getLogger(__name__)

OperationName = Literal["swap", "challenge", "promote", "drop"]
OperationResult = Literal["ok", "refused", "busy", "failed", "unauthorized"]
"""Done; not possible as it was asked; not yet possible, so that asking again may help; the engine
could not load it; or asked without the admin key."""

_POLL_SECONDS = 0.05
_ONLY_CHALLENGER = "the only challenger"


class DrafterEngine(Protocol):
    """The engine's side: what holds the weights."""

    async def load(self, slot: int, folder: Path, revision: str) -> float:
        """Build the drafter of this folder and revision in that slot and try it.

        Returns:
            Seconds that nobody was served meanwhile.

        Raises:
            SwapError: If it cannot; the slot then holds nothing.
        """


@dataclass(frozen=True, slots=True)
class _Outcome:
    slot: int
    load_seconds: float = 0.0


@dataclass(slots=True)
class _Underway:
    """What readers are shown of an operation that has not ended.

    Attributes:
        drafter: Name of the drafter; none until its files are checked.
        waiting_for: Running requests that must end before a slot is free.
    """

    name: OperationName
    drafter: str | None
    waiting_for: int = 0


class _LoadFailedError(SwapError):
    """The engine refused a drafter that all checks had let through."""


class Operations:
    """Changes who serves and who is compared, while requests keep the drafters they have."""

    def __init__(
        self,
        fleet: Fleet,
        engine: DrafterEngine,
        admission: Admission,
        *,
        drain_timeout_seconds: float,
        on_result: Callable[[OperationName, OperationResult], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with nothing under way.

        Args:
            fleet: Whose roles change.
            engine: Loads weights.
            admission: Which folders may be loaded.
            drain_timeout_seconds: How long a load waits for a slot.
            on_result: Told of each operation after it ended, with the fleet as it is then.
            clock: Seconds from any start.
        """
        self._fleet = fleet
        self._engine = engine
        self._admission = admission
        self._drain_timeout_seconds = drain_timeout_seconds
        self._on_result = on_result
        self._clock = clock
        self._current: asyncio.Task[dict[str, Any]] | None = None
        self._underway: _Underway | None = None

    def drafters(self, *, shows_salt: bool) -> dict[str, Any]:
        """The answer to `GET /dpace/drafters`; `operation` is null while none is under way.

        Args:
            shows_salt: Whether the reader may repeat the draws, and so foresee them.
        """
        salt = self._fleet.draw_salt if shows_salt else None
        underway = None if self._underway is None else asdict(self._underway)
        return {**self._fleet.drafters(), "draw_salt": salt, "operation": underway}

    async def swap(self, request: DrafterRequest) -> dict[str, Any]:
        """Let another drafter serve the requests that come from now on.

        Returns:
            Operation, drafter, slot, seconds of loading and in total, and the former champion.

        Raises:
            SwapError: If it is refused; everything is as before.
        """
        work = partial(self._host, request, Role.CHAMPION)
        return await self._alone("swap", request.name, request.folder, work)

    async def challenge(self, request: DrafterRequest) -> dict[str, Any]:
        """Compare another drafter with the champion; returns and raises as `swap`."""
        work = partial(self._host, request, Role.CHALLENGER)
        return await self._alone("challenge", request.name, request.folder, work)

    async def promote(self, name: str | None, revision: str | None = None) -> dict[str, Any]:
        """Make a challenger the champion, the only one without a name; as `swap`.

        Args:
            name: Which challenger.
            revision: What its revision must start with when its turn comes; none takes any.
        """
        work = partial(self._change, self._fleet.promote, name, revision)
        return await self._alone("promote", name, name or _ONLY_CHALLENGER, work)

    async def drop(self, name: str | None, revision: str | None = None) -> dict[str, Any]:
        """End a challenger's comparison, the only one's without a name; as `promote`."""
        work = partial(self._change, self._fleet.drop, name, revision)
        return await self._alone("drop", name, name or _ONLY_CHALLENGER, work)

    def unauthorized(self, operation: OperationName) -> None:
        """Count an operation that was asked for without the admin key."""
        logger.warning("%s unauthorized: the admin key was wrong, or there was none", operation)
        self._on_result(operation, "unauthorized")

    async def _alone(
        self,
        operation: OperationName,
        name: str | None,
        asked: str,
        work: Callable[[], Awaitable[_Outcome]],
    ) -> dict[str, Any]:
        if self._current is not None and not self._current.done():
            logger.info("%s busy (%s): another operation is under way", operation, asked)
            self._on_result(operation, "busy")
            raise BusyError(
                "one change of the drafters must end before the next, and one is under way. Try "
                "again later."
            )
        self._underway = _Underway(operation, name)
        self._current = asyncio.create_task(self._reported(operation, asked, work))
        self._current.add_done_callback(self._forget)
        # A client that leaves must not leave half a swap behind.
        return await asyncio.shield(self._current)

    async def _reported(
        self, operation: OperationName, asked: str, work: Callable[[], Awaitable[_Outcome]]
    ) -> dict[str, Any]:
        started, former = self._clock(), self._fleet.champion
        try:
            outcome = await work()
        except SwapError as error:
            result = _result_of(error)
            logger.warning("%s %s (%s): %s", operation, result, asked, error)
            self._on_result(operation, result)
            raise
        except BaseException:
            # Its client may have left, so that nobody else would ever see it.
            logger.exception("%s failed (%s)", operation, asked)
            self._on_result(operation, "failed")
            raise
        total_seconds = self._clock() - started
        drafter, champion = self._fleet.drafter_in(outcome.slot), self._fleet.champion
        logger.info(
            "%s ok (%s): %s (revision %s) after %.2f s, %.2f s of them loading; the champion is %s",
            operation,
            asked,
            drafter.name,
            drafter.revision,
            total_seconds,
            outcome.load_seconds,
            champion.name,
        )
        self._on_result(operation, "ok")
        return {
            "operation": operation,
            "drafter": drafter.identity(),
            "slot": outcome.slot,
            "seconds": {"load": outcome.load_seconds, "total": total_seconds},
            "former_champion": None if former == champion else former.identity(),
        }

    def _forget(self, task: "asyncio.Task[dict[str, Any]]") -> None:
        self._underway = None
        # Where the client has left nobody asks for the error, and asyncio would log it once more.
        if not task.cancelled():
            task.exception()

    async def _change(
        self,
        transition: Callable[[str | None, str | None], int],
        name: str | None,
        revision: str | None,
    ) -> _Outcome:
        return _Outcome(transition(name, revision))

    async def _host(self, request: DrafterRequest, role: Role) -> _Outcome:
        try:
            return await self._hosted(request, role)
        finally:
            self._fleet.end_change()

    async def _hosted(self, request: DrafterRequest, role: Role) -> _Outcome:
        if not self._fleet.can_load:
            raise SwapError(
                "this server has no spare slot for drafters. Start it with drafter_root set, and "
                "spare_drafter_slots not 0.",
                status=HTTPStatus.FORBIDDEN,
            )
        candidate = await asyncio.to_thread(self._admission.admit, request)
        self._show(candidate, waiting_for=0)
        slot = self._fleet.seat(candidate)
        if slot is not None:  # nothing to load: its weights are still there
            self._fleet.reinstate(slot, role)
            return _Outcome(slot)
        self._fleet.require_share_for(role)
        slot = await self._reserve(candidate)
        try:
            # A slot may have been long in coming.
            await asyncio.to_thread(self._admission.require_unchanged, candidate, request)
            load_seconds = await self._load(slot, candidate, request)
            await asyncio.to_thread(self._admission.require_unchanged, candidate, request)
            self._fleet.install(slot, candidate, role)
        except BaseException:
            self._fleet.abandon(slot)
            raise
        return _Outcome(slot, load_seconds)

    async def _reserve(self, candidate: Candidate) -> int:
        """A slot for a drafter, as soon as the requests that use it have ended."""
        deadline = self._clock() + self._drain_timeout_seconds
        while True:
            try:
                slot = self._fleet.reserve(candidate.config, name=candidate.name)
            except BusyError:
                if self._clock() >= deadline:
                    raise
                num_draining = self._fleet.count_draining(candidate.config)
            else:
                self._show(candidate, waiting_for=0)
                return slot
            self._show(candidate, waiting_for=num_draining)
            await asyncio.sleep(_POLL_SECONDS)

    def _show(self, candidate: Candidate, *, waiting_for: int) -> None:
        if self._underway is not None:
            self._underway.drafter, self._underway.waiting_for = candidate.name, waiting_for

    async def _load(self, slot: int, candidate: Candidate, request: DrafterRequest) -> float:
        try:
            return await self._engine.load(slot, candidate.folder, candidate.revision)
        except SwapError as error:
            text = str(error).replace(str(candidate.folder), request.folder)
            raise _LoadFailedError(text, status=error.status) from error


def _result_of(error: SwapError) -> OperationResult:
    if isinstance(error, _LoadFailedError):
        return "failed"
    return "busy" if isinstance(error, BusyError) else "refused"
