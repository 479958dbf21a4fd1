"""Which steps of an engine only decoded, and how long each took, from what the engine says of them.

A step is timed by its requests: the time since their last tokens is the time since the step before,
if that one gave each of them a token. The engine's own clock measured it, so nothing that happens
on the way to this process is in it. What the engine does between two steps is: scheduling, and now
and then a call from outside, as to load a drafter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_SAME_GAP_SECONDS = 1e-6  # differences of the same two clock readings, so only rounding is left


@dataclass(frozen=True, slots=True)
class EngineStep:
    """What one step of an engine says of itself.

    Attributes:
        gaps: Seconds since its last tokens, of each request that had some before and now got more.
        num_first: Requests that got their first token: their prompt ended in this step.
        num_tokens: Tokens that all of them got.
        num_finished: How many of them ended with it.
        num_running: Requests that the engine goes on with.
    """

    gaps: Sequence[float]
    num_first: int
    num_tokens: int
    num_finished: int
    num_running: int

    @property
    def num_continuing(self) -> int:
        """Requests that got tokens and did not end."""
        return len(self.gaps) + self.num_first - self.num_finished


@dataclass(frozen=True, slots=True)
class DecodeStep:
    """A step that only decoded, directly after another one.

    Attributes:
        seconds: From the end of the step before to its own.
        batch_size: Requests that got tokens, at least 1.
        num_tokens: Tokens that they got.
    """

    seconds: float
    batch_size: int
    num_tokens: int


class StepClock:
    """Times the steps of one engine, which are given in their order, empty ones among them."""

    def __init__(self) -> None:
        """Start before the first step."""
        self._last_continues = False

    def time(self, step: EngineStep) -> DecodeStep | None:
        """The step's time and size; none if it did more than decode or followed no other step.

        Left out are, by what gives them away: a step that ended a prompt (a first token), that read
        only a part of one or left a request waiting (a running request without a token), that read
        a preempted request again (gaps that differ), and the first one after the engine had nothing
        to do. So is a decoding step when its scheduler, which may run ahead, has already let a new
        request in.
        """
        follows_another, self._last_continues = self._last_continues, step.num_continuing > 0
        only_decodes = not step.num_first and step.num_running == step.num_continuing
        if not (follows_another and only_decodes and step.gaps):
            return None
        seconds = min(step.gaps)
        if seconds <= 0 or max(step.gaps) - seconds > _SAME_GAP_SECONDS:
            return None
        return DecodeStep(seconds, batch_size=len(step.gaps), num_tokens=step.num_tokens)
