"""InPlaceFleet: the one drafter of an engine that has no place for a second one."""

import time
from collections.abc import Callable
from http import HTTPStatus

from dpace_serve.drafter.config import DrafterConfig
from dpace_serve.errors import BusyError, SwapError
from dpace_serve.live.arrival_gate import ArrivalGate
from dpace_serve.live.fleet import Fleet
from dpace_serve.live.hosted import Candidate, Role, shape_differences
from dpace_serve.live.traffic import Traffic


class InPlaceFleet(Fleet):
    """A champion whose weights are written over, while no request runs and new ones wait.

    So every request has one drafter from its start to its end here too.
    """

    def __init__(
        self,
        champion: Candidate,
        gate: ArrivalGate,
        *,
        can_load: bool,
        traffic: Traffic,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Host the drafter given at start.

        Args:
            champion: Serves everything.
            gate: Where requests enter.
            can_load: Whether it may be changed while the server runs.
            traffic: What readers are shown of the draws; there is nothing to draw.
            clock: Seconds from any start.
        """
        super().__init__(champion, [], num_spare_slots=0, traffic=traffic, clock=clock)
        self._gate = gate
        self.can_load = can_load
        self._is_content_known = True

    def seat(self, candidate: Candidate) -> int | None:
        """The slot if this very drafter, by name and revision, is surely in it; else None."""
        slot = self._slots[0]
        if not self._is_content_known:
            return None
        drafter = slot.occupant
        is_loaded = (drafter.name, drafter.revision) == (candidate.name, candidate.revision)
        return slot.number if is_loaded else None

    def reserve(self, config: DrafterConfig, *, name: str | None = None) -> int:  # noqa: ARG002  (one slot)
        """Shut the gate, and take the slot once nothing runs.

        Raises:
            BusyError: If requests are still inside.
            SwapError: If the drafter has another shape.
        """
        slot = self._slots[0]
        differences = shape_differences(config, slot.shape)
        if differences:
            raise SwapError(
                "a drafter must have the shape of the one that the server started with, this one "
                f"has {differences}. Start a server with it.",
                status=HTTPStatus.UNPROCESSABLE_ENTITY,
            )
        self._gate.shut()
        if self._gate.num_inside:
            raise BusyError(
                "the drafter can be written over only while nothing runs, but "
                f"{self._gate.num_inside} requests have not ended. Try again when they have, or "
                "raise drain_timeout_seconds."
            )
        slot.is_reserved = True
        return slot.number

    def count_draining(self, config: DrafterConfig) -> int:  # noqa: ARG002  (one slot, one shape)
        """Requests that must end before the slot is free."""
        return self._gate.num_inside

    def install(self, number: int, candidate: Candidate, role: Role) -> None:
        """Name the drafter that was written into the reserved slot.

        Raises:
            SwapError: If it was to be a challenger.
        """
        slot = self._reserved(number)
        self.require_share_for(role)
        self._occupy(slot, candidate)
        slot.num_served = 0
        slot.is_reserved = False
        self._is_content_known = True

    def abandon(self, number: int) -> None:
        """Free a reserved slot, into which a load may have written for all that is known."""
        super().abandon(number)
        self._is_content_known = False

    def end_change(self) -> None:
        """Let in those who waited, to whichever drafter there is now."""
        self._gate.reopen()

    def require_share_for(self, role: Role) -> None:
        """Check that the role is the champion's: nothing else fits.

        Raises:
            SwapError: If it is not.
        """
        if role is not Role.CHAMPION:
            raise SwapError(
                "this engine hosts one drafter, so there is no challenger. Swap it, or compare two "
                "with vLLM.",
                status=HTTPStatus.FORBIDDEN,
            )
