"""HostedDrafter: a drafter that this server holds, and the roles that it can have."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path

from dpace_serve.drafter.config import DrafterConfig
from dpace_serve.errors import ConfigError

_NAMED_DIFFERENCES = 3


class Role(StrEnum):
    """What a slot's drafter does for new requests."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"
    RETIRED = "retired"
    """Still loaded: its running requests end with it, and it can come back at once."""
    EMPTY = "empty"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A drafter on disk whose files were checked."""

    name: str
    revision: str
    folder: Path
    config: DrafterConfig


@dataclass(frozen=True, slots=True)
class HostedDrafter:
    """A loaded drafter.

    Attributes:
        generation: Number of this load; no two loads of a server's life share one.
    """

    name: str
    revision: str
    folder: Path
    block_size: int
    generation: int

    def identity(self) -> dict[str, str]:
        """Name and revision, for JSON."""
        return {"name": self.name, "revision": self.revision}


@dataclass(frozen=True, slots=True)
class Rivals:
    """The champion and a challenger, as they get requests now.

    Attributes:
        champion: Who serves.
        challenger: Who is compared with it.
        have_same_shape: Whether their steps compute the same, with other weights.
        shares: Configured shares of the requests that each of them serves; none where the
            challenger serves none.
    """

    champion: HostedDrafter
    challenger: HostedDrafter
    have_same_shape: bool
    shares: tuple[float, float] | None


def require_different_names(candidates: Sequence[Candidate]) -> None:
    """Check the drafters given at start, whose names become labels.

    Raises:
        ConfigError: If two have the same one.
    """
    names = [candidate.name for candidate in candidates]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"drafters must have different names, two are called {name}. Rename a folder, or "
                "set drafter_name."
            )


def shape_of(config: DrafterConfig) -> DrafterConfig:
    """The configuration without the facts that change neither the tensors nor the serving.

    Drafters of equal shape fit into each other's slots.
    """
    return replace(
        config, objective=None, target_name=None, target_revision=None, enable_thinking=None
    )


def shape_differences(config: DrafterConfig, shape: DrafterConfig) -> str:
    """What keeps a drafter from a slot's shape: the first fields that differ, or nothing."""
    own = shape_of(config)
    differences = [
        f"{field.name} {_word(getattr(own, field.name))} instead of "
        f"{_word(getattr(shape, field.name))}"
        for field in fields(own)
        if getattr(own, field.name) != getattr(shape, field.name)
    ]
    return ", ".join(differences[:_NAMED_DIFFERENCES])


def _word(value: object) -> str:
    return "none" if value is None else str(value)
