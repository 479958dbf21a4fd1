"""What an entry of the tables of weightings, token losses and joint terms says of itself."""

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Comparison = Literal["nothing", "distributions", "overlap"]
FunctionT = TypeVar("FunctionT")


@dataclass(frozen=True, slots=True)
class Part(Generic[FunctionT]):
    """One choice for a part of the objective: its function, and what the settings must know of it.

    What is left out is computed right, if not at the lowest cost: all positions are worked out, and
    the settings that only other parts look at are refused beside this one.
    """

    function: FunctionT
    """What works it out for a chunk of blocks."""
    reads: tuple[str, ...] = ()
    """Settings it looks at, of those that act through a part (`alpha`, `gamma`, ...)."""
    looks_ahead: bool = True
    """Whether what comes of a position may hang on later ones; `False` lets `until_first_error`
    leave out all that follows the first wrong draft."""
    compares: Comparison = "nothing"
    """What it needs of the target beside the labels; all but `nothing` asks for soft labels, and
    `overlap` is logged by position."""


@dataclass(frozen=True, slots=True)
class JointTerm(Part[FunctionT]):
    """A part that is added to the losses of a block's positions, times `joint_scale`."""

    default_scale: float = 1.0
    """Its factor where `joint_scale` is not given."""
