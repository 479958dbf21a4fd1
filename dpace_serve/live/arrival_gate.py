"""ArrivalGate: new requests wait outside while the one drafter of an engine is written over."""

import asyncio


class ArrivalGate:
    """Counts the calls inside, and can be shut; belongs to one event loop.

    Attributes:
        num_inside: Calls that have entered and not left.
    """

    def __init__(self) -> None:
        self._is_open = asyncio.Event()
        self._is_open.set()
        self.num_inside = 0

    async def enter(self) -> None:
        """Wait until the gate is open, then count as inside until `leave`."""
        while not self._is_open.is_set():  # it may be shut again before a waiter runs
            await self._is_open.wait()
        self.num_inside += 1

    def leave(self) -> None:
        """Count as outside again."""
        self.num_inside -= 1

    def shut(self) -> None:
        """Let nobody in from now on; those inside go on."""
        self._is_open.clear()

    def reopen(self) -> None:
        """Let everybody in that waits, and all after them."""
        self._is_open.set()
