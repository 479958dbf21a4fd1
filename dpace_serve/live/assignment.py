"""Assignment: the drafters of one request, bound to it for all of its life."""

from collections.abc import Iterable
from dataclasses import dataclass

from dpace_serve.acceptance.arm import Arm
from dpace_serve.live.hosted import HostedDrafter


@dataclass(frozen=True, slots=True)
class Binding:
    """One drafter of a request, and what it does for it."""

    slot: int
    drafter: HostedDrafter
    arm: Arm


@dataclass(frozen=True, slots=True)
class Assignment:
    """The drafters of one request.

    Attributes:
        key: Number of this assignment; later ones have greater numbers.
        serving: Whose drafts are verified.
        shadows: Who drafts along for comparison.
        cache_salt: What keeps it from cached keys and values of other drafters; None where only
            the first drafter of the server is concerned.
        is_drawn: Whether chance decided who serves it; not where its client chose.
    """

    key: int
    serving: Binding
    shadows: tuple[Binding, ...]
    cache_salt: str | None
    is_drawn: bool

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """All drafters, the serving one first."""
        return (self.serving, *self.shadows)


def cache_salt(drafters: Iterable[HostedDrafter]) -> str | None:
    """The same text for the same loads, whatever their arms; None for the first load alone."""
    generations = sorted(drafter.generation for drafter in drafters)
    return None if generations == [0] else f"dpace:{'+'.join(map(str, generations))}"
