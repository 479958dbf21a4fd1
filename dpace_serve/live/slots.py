"""Slot: one place for a drafter in the engine, and the choice of a place for a new one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from dpace_serve.drafter.config import DrafterConfig
from dpace_serve.errors import BusyError, SwapError
from dpace_serve.live.hosted import HostedDrafter, Role, shape_differences, shape_of


@dataclass(slots=True)
class Slot:
    """A place with weights, keys and values of its own in the engine.

    Attributes:
        number: The engine's number of the slot.
        shape: Shape of the tensors that it was built with.
        is_reserved: A drafter is being loaded into it.
        running: When the requests began that have not ended and are bound to its drafter, by key.
        num_served: Requests that its drafter served since it was loaded, running ones too.
        num_shadowed: Requests that it only drafted along with.
        retirement: Number of its latest retirement; later ones are greater.
    """

    number: int
    shape: DrafterConfig
    role: Role = Role.EMPTY
    drafter: HostedDrafter | None = None
    is_reserved: bool = False
    running: dict[int, float] = field(default_factory=dict)
    num_served: int = 0
    num_shadowed: int = 0
    retirement: int = 0

    @property
    def occupant(self) -> HostedDrafter:
        """The drafter in it.

        Raises:
            LookupError: If there is none.
        """
        if self.drafter is None:
            raise LookupError(f"slot {self.number} is empty")
        return self.drafter

    @property
    def is_free(self) -> bool:
        """Whether a drafter can be loaded into it without touching a running request."""
        is_unused = self.role is Role.RETIRED and not self.running
        return not self.is_reserved and (self.role is Role.EMPTY or is_unused)

    def holds(self, name: str | None) -> bool:
        """Whether the drafter in it has this name."""
        return self.drafter is not None and self.drafter.name == name

    def require_replaceable(self) -> None:
        """Check that another drafter may have the name of the one in it.

        Raises:
            BusyError: If it is retired and requests still run with it.
            SwapError: If it is the champion or a challenger.
        """
        loaded = f"revision {self.occupant.revision} is loaded as {self.occupant.name} too"
        if self.role is not Role.RETIRED:
            raise SwapError(
                f"names must differ, but {loaded}. Give this drafter another name.",
                status=HTTPStatus.CONFLICT,
            )
        if self.running:
            raise BusyError(
                f"names must differ, but {loaded}, and {len(self.running)} requests still run with "
                "it. Try again when they have ended, or give this drafter another name."
            )

    def clear(self) -> None:
        """Forget the drafter in it."""
        self.role, self.drafter = Role.EMPTY, None
        self.num_served = self.num_shadowed = 0

    def to_dict(self) -> dict[str, Any]:
        """The slot for `GET /dpace/drafters`; no path, as every reader sees it."""
        drafter = self.drafter
        return {
            "slot": self.number,
            "role": self.role.value,
            "is_loading": self.is_reserved,
            "name": None if drafter is None else drafter.name,
            "revision": None if drafter is None else drafter.revision,
            "block_size": None if drafter is None else drafter.block_size,
            "generation": None if drafter is None else drafter.generation,
            "running": len(self.running),
            "served": self.num_served,
            "shadowed": self.num_shadowed,
        }


def free_slot(
    slots: Sequence[Slot], config: DrafterConfig, *, name: str | None, now: float
) -> Slot:
    """The slot to load a drafter into: an empty one, else the one retired longest ago.

    A retired drafter of the same name goes before others: it must go anyway.

    Args:
        slots: All slots.
        config: The drafter's.
        name: The drafter's; none where it has none yet.
        now: Time by the clock of the requests' beginnings.

    Raises:
        BusyError: If the end of running requests will free one.
        SwapError: If none has its shape, or none of these is free.
    """
    fitting = fitting_slots(slots, config)
    free = [slot for slot in fitting if slot.is_free]
    if free:
        # The drafter that retired last is the one to go back to: it goes last.
        return min(
            free,
            key=lambda slot: (slot.role is not Role.EMPTY, not slot.holds(name), slot.retirement),
        )
    if not fitting:
        shape = next((slot for slot in slots if slot.role is Role.EMPTY), slots[0]).shape
        raise SwapError(
            "a drafter must have the shape of a slot that was built at start, this one has "
            f"{shape_differences(config, shape)}. Start a server with it.",
            status=HTTPStatus.UNPROCESSABLE_ENTITY,
        )
    # Spare slots are built like the drafter that the server starts with.
    has_first_shape = slots[0].shape == fitting[0].shape
    more = "more spare_drafter_slots" if has_first_shape else "one more challenger of its shape"
    began = draining(slots, config)
    if began:
        raise BusyError(
            f"a slot must be free, but {len(began)} running requests still use the former "
            f"drafters, the oldest for {now - min(began.values()):.0f} s: an answer that goes on, "
            "or a client that does not read its answer. Try again when they have ended, or start "
            f"with {more}."
        )
    raise SwapError(
        "a slot must be free, but all that fit hold the champion or a challenger. Drop a "
        f"challenger of its shape, or start with {more}.",
        status=HTTPStatus.CONFLICT,
    )


def find_named(slots: Sequence[Slot], name: str) -> Slot | None:
    """The slot whose drafter has this name; names differ, so there is one at most."""
    return next((slot for slot in slots if slot.holds(name)), None)


def fitting_slots(slots: Sequence[Slot], config: DrafterConfig) -> list[Slot]:
    """The slots whose tensors have the drafter's shape."""
    shape = shape_of(config)
    return [slot for slot in slots if slot.shape == shape]


def draining(slots: Sequence[Slot], config: DrafterConfig) -> dict[int, float]:
    """When the running requests began that keep retired drafters in slots of this shape, by key."""
    began: dict[int, float] = {}
    for slot in fitting_slots(slots, config):
        if slot.role is Role.RETIRED:
            began |= slot.running
    return began


def find_challenger(slots: Sequence[Slot], name: str | None, revision: str | None) -> Slot:
    """The challenger of that name; the only one where none is given.

    Args:
        slots: All slots.
        name: Which challenger; none takes the only one.
        revision: What its revision must start with; any is right where none is given.

    Raises:
        SwapError: If there is no such challenger, several and no name, or it is another revision.
    """
    slot = _named_challenger(slots, name)
    found = slot.occupant
    if not found.revision.startswith(revision or ""):
        raise SwapError(
            f"the revision of {found.name} must start with {revision}, is {found.revision}: "
            "another drafter has taken its name. Look at the drafters, and ask again for the one "
            "that is meant.",
            status=HTTPStatus.CONFLICT,
        )
    return slot


def _named_challenger(slots: Sequence[Slot], name: str | None) -> Slot:
    challengers = [slot for slot in slots if slot.role is Role.CHALLENGER]
    named = [slot for slot in challengers if name in (None, slot.occupant.name)]
    if len(named) == 1:
        return named[0]
    known = ", ".join(slot.occupant.name for slot in challengers)
    if not challengers:
        raise SwapError(
            "there must be a challenger, but none is loaded. Load one first.",
            status=HTTPStatus.NOT_FOUND,
        )
    if not named:
        raise SwapError(
            f"the name must be a challenger's: {known}. Correct it.", status=HTTPStatus.NOT_FOUND
        )
    raise SwapError(
        f"there are several challengers: {known}. Name one.",
        status=HTTPStatus.UNPROCESSABLE_ENTITY,
    )
