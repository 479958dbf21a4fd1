"""Fleet: who serves and who shadows each request, and how drafters change their roles.

Everything here is synchronous and belongs to one thread, the event loop's.
"""

import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from itertools import count
from typing import Any

from dpace_serve.acceptance.arm import Arm
from dpace_serve.drafter.config import DrafterConfig
from dpace_serve.errors import SwapError
from dpace_serve.live.assignment import Assignment, Binding, cache_salt
from dpace_serve.live.hosted import (
    Candidate,
    HostedDrafter,
    Rivals,
    Role,
    require_different_names,
    shape_of,
)
from dpace_serve.live.slots import Slot, draining, find_challenger, find_named, free_slot
from dpace_serve.live.traffic import Traffic

__all__ = ["Assignment", "Binding", "Fleet"]

_SERVING_ARMS: dict[Role, Arm] = {Role.CHAMPION: "champion", Role.CHALLENGER: "challenger"}


class Fleet:
    """The drafters of one server and the requests that run with them.

    Each transition either happens as a whole or raises SwapError and changes nothing.

    Attributes:
        can_load: Whether drafters may be loaded at all while the server runs.
        num_assigned: Requests assigned so far, which is the key of the latest.
    """

    def __init__(
        self,
        champion: Candidate,
        challengers: Sequence[Candidate],
        *,
        num_spare_slots: int,
        traffic: Traffic,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Host the drafters given at start: the champion in slot 0, then the challengers.

        Args:
            champion: Serves everything that no challenger serves.
            challengers: In the order of their slots.
            num_spare_slots: Further slots, of the champion's shape; none switches loading off.
            traffic: Who serves and shadows how much.
            clock: Seconds from any start.

        Raises:
            ConfigError: If two of them have the same name.
        """
        given = [champion, *challengers]
        require_different_names(given)
        spare = [champion] * num_spare_slots
        self._slots = tuple(
            Slot(number, shape_of(model.config)) for number, model in enumerate([*given, *spare])
        )
        self._traffic, self._clock = traffic, clock
        self.can_load = num_spare_slots > 0
        self._generations, self._retirements = count(), count(1)
        self.num_assigned = 0
        self._running: dict[int, Assignment] = {}
        for slot, candidate in zip(self._slots, given, strict=False):
            self._occupy(slot, candidate)
            slot.role = Role.CHALLENGER
        self._slots[0].role = Role.CHAMPION

    @property
    def champion(self) -> HostedDrafter:
        """Who serves."""
        return self._champion.occupant

    @property
    def challengers(self) -> tuple[HostedDrafter, ...]:
        """Who is compared with the champion, in the order of their slots."""
        return tuple(slot.occupant for slot in self._with_role(Role.CHALLENGER))

    @property
    def hosted(self) -> tuple[HostedDrafter, ...]:
        """Every drafter that is loaded, retired ones too, whose requests may still run."""
        return tuple(slot.drafter for slot in self._slots if slot.drafter is not None)

    def rivals(self) -> tuple[Rivals, ...]:
        """The champion beside each challenger, in the order of the challengers' slots."""
        champion, challengers = self._champion, self._with_role(Role.CHALLENGER)
        share = self._traffic.challengers_share(1)
        rest = 1 - self._traffic.challengers_share(len(challengers))
        return tuple(
            Rivals(
                champion=champion.occupant,
                challenger=slot.occupant,
                have_same_shape=slot.shape == champion.shape,
                shares=(rest, share) if share else None,
            )
            for slot in challengers
        )

    def drafter_in(self, number: int) -> HostedDrafter:
        """The drafter that is loaded in a slot."""
        return self._slots[number].occupant

    def served_shares(self) -> dict[Role, float]:
        """Configured shares of the requests that champion and challengers serve; their sum is 1."""
        share = self._traffic.challengers_share(len(self.challengers))
        return {Role.CHAMPION: 1 - share, Role.CHALLENGER: share}

    def is_split(self, assignment: Assignment) -> bool:
        """Whether the configured shares decided who serves a request."""
        return self._traffic.mode == "split" and assignment.is_drawn

    @property
    def draw_salt(self) -> str:
        """What the draws depend on beside the ids of the requests."""
        return self._traffic.draw_salt

    def drafters(self) -> dict[str, Any]:
        """The drafters and how requests are spread over them, for every reader."""
        return {
            "mode": self._traffic.mode,
            "share": self._traffic.share,
            "shadow_share": self._traffic.shadow_share,
            "drafters": [slot.to_dict() for slot in self._slots],
        }

    def assign(self, request_id: str, *, wanted: str | None, may_shadow: bool) -> Assignment:
        """Bind a request to its drafters, and count it as running until `release`.

        Challengers are numbered in the order of their slots. They shadow what the champion serves
        only: elsewhere there is nothing to compare them with.

        Args:
            request_id: Its id as records have it, which the draws depend on.
            wanted: Name of the drafter that shall serve; none leaves it to the draw.
            may_shadow: Whether the drafts of a challenger could be judged.

        Raises:
            ValueError: If no drafter that serves has the wanted name.
        """
        serving = self._drawn(request_id) if wanted is None else self._wanted(wanted)
        shadowing = self._shadowing(request_id, serving) if may_shadow else []
        self.num_assigned += 1
        assignment = Assignment(
            key=self.num_assigned,
            serving=Binding(serving.number, serving.occupant, _SERVING_ARMS[serving.role]),
            shadows=tuple(Binding(slot.number, slot.occupant, "shadow") for slot in shadowing),
            cache_salt=cache_salt(slot.occupant for slot in (serving, *shadowing)),
            is_drawn=wanted is None,
        )
        self._running[assignment.key] = assignment
        serving.num_served += 1
        for slot in shadowing:
            slot.num_shadowed += 1
        began = self._clock()
        for slot in (serving, *shadowing):
            slot.running[assignment.key] = began
        return assignment

    def release(self, assignment: Assignment) -> None:
        """Count a request as ended.

        Raises:
            ValueError: If it has ended before, or is not from here.
        """
        if self._running.get(assignment.key) != assignment:
            raise ValueError(f"assignment {assignment.key} is not running: it was released before")
        del self._running[assignment.key]
        for binding in assignment.bindings:
            del self._slots[binding.slot].running[assignment.key]

    def seat(self, candidate: Candidate) -> int | None:
        """Slot where this very drafter, by name and revision, is loaded; None if it is not.

        A retired drafter of its name is in nobody's way: `install` forgets it.

        Raises:
            BusyError: If requests still run with a retired one of its name.
            SwapError: If the champion or a challenger has its name.
        """
        slot = find_named(self._slots, candidate.name)
        if slot is None:
            return None
        if slot.occupant.revision == candidate.revision:
            return slot.number
        slot.require_replaceable()
        return None

    def reserve(self, config: DrafterConfig, *, name: str | None = None) -> int:
        """Take a free slot for a drafter; what was retired there is forgotten.

        Args:
            config: The drafter's.
            name: The drafter's, to take the place of a retired one that is called so.

        Raises:
            BusyError: If the end of running requests will free a slot of its shape.
            SwapError: If none will be free.
        """
        slot = free_slot(self._slots, config, name=name, now=self._clock())
        slot.clear()
        slot.is_reserved = True
        return slot.number

    def count_draining(self, config: DrafterConfig) -> int:
        """Running requests whose end may free a slot for a drafter."""
        return len(draining(self._slots, config))

    def install(self, number: int, candidate: Candidate, role: Role) -> None:
        """Give a role to the drafter that was loaded into a reserved slot.

        Raises:
            SwapError: If its name is taken, or there is no share left for a challenger.
        """
        slot = self._reserved(number)
        if self.seat(candidate) is not None:
            raise ValueError(f"{candidate.name} is loaded already")
        self.require_share_for(role)
        namesake = find_named(self._slots, candidate.name)
        if namesake is not None:  # retired, or `seat` would have refused
            namesake.clear()
        self._occupy(slot, candidate)
        slot.is_reserved = False
        self._give_role(slot, role)

    def abandon(self, number: int) -> None:
        """Give a reserved slot back, empty."""
        self._reserved(number).is_reserved = False

    def end_change(self) -> None:
        """Hear that a change that may have reserved a slot has ended, in whatever way."""

    def reinstate(self, number: int, role: Role) -> None:
        """Give a role to a drafter that is still loaded; the same role again changes nothing.

        Raises:
            SwapError: If the champion should become a challenger, or there is no share for one.
        """
        slot = self._slots[number]
        if slot.role is role:
            return
        if slot.role is Role.CHAMPION:
            raise SwapError(
                f"a challenger must not be the champion, {slot.occupant.name} is. To compare it "
                "with itself, give it another name.",
                status=HTTPStatus.CONFLICT,
            )
        self.require_share_for(role)
        self._give_role(slot, role)

    def promote(self, name: str | None, revision: str | None = None) -> int:
        """Make a challenger the champion, and retire the former one.

        Args:
            name: Which challenger; none takes the only one.
            revision: What its revision must start with; none takes any.

        Returns:
            Its slot.

        Raises:
            SwapError: If there is no such challenger, several and no name, or it is another
                revision.
        """
        slot = find_challenger(self._slots, name, revision)
        self._give_role(slot, Role.CHAMPION)
        return slot.number

    def drop(self, name: str | None, revision: str | None = None) -> int:
        """Retire a challenger; takes, returns and raises as `promote`."""
        slot = find_challenger(self._slots, name, revision)
        self._retire(slot)
        return slot.number

    def require_share_for(self, role: Role) -> None:
        """Check that one more drafter in this role leaves the champion a share of the requests.

        Raises:
            SwapError: If it does not.
        """
        if role is Role.CHALLENGER:
            self._traffic.require_share_for(len(self.challengers) + 1)

    @property
    def _champion(self) -> Slot:
        return self._with_role(Role.CHAMPION)[0]

    def _with_role(self, role: Role) -> list[Slot]:
        return [slot for slot in self._slots if slot.role is role]

    def _drawn(self, request_id: str) -> Slot:
        challengers = self._with_role(Role.CHALLENGER)
        index = self._traffic.serving_challenger(request_id, len(challengers))
        return self._champion if index is None else challengers[index]

    def _wanted(self, name: str) -> Slot:
        choices = {slot.occupant.name: slot for slot in self._slots if slot.role in _SERVING_ARMS}
        if name not in choices:
            raise ValueError(f"the drafter must be one of {', '.join(choices)}. Correct its name.")
        return choices[name]

    def _shadowing(self, request_id: str, serving: Slot) -> list[Slot]:
        is_shadowed = serving.role is Role.CHAMPION and self._traffic.is_shadowed(request_id)
        return self._with_role(Role.CHALLENGER) if is_shadowed else []

    def _occupy(self, slot: Slot, candidate: Candidate) -> None:
        slot.drafter = HostedDrafter(
            name=candidate.name,
            revision=candidate.revision,
            folder=candidate.folder,
            block_size=candidate.config.block_size,
            generation=next(self._generations),
        )

    def _give_role(self, slot: Slot, role: Role) -> None:
        if role is Role.CHAMPION:
            self._retire(self._champion)
        slot.role = role

    def _retire(self, slot: Slot) -> None:
        slot.role = Role.RETIRED
        slot.retirement = next(self._retirements)

    def _reserved(self, number: int) -> Slot:
        slot = self._slots[number]
        if not slot.is_reserved:
            raise ValueError(f"slot {number} is not reserved")
        return slot
