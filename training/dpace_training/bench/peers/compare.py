"""Steps of all sides in turn, and how many times faster ours is."""

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from dpace_serve.errors import ConfigError
from dpace_training.bench.peers.process import Answer, SideStoppedError, StepProcess

WARM_UP_STEPS = 2
# Peers draw anchors from their own candidates: speculators also takes an answer's last token.
SUPERVISED_TOLERANCE = 0.03


@dataclass(slots=True)
class SideRun:
    """One side of a run: what it was, its counted steps, and why it stopped, if it did."""

    command: Sequence[str]
    process: StepProcess | None = None
    answers: list[Answer] = field(default_factory=list)
    stopped_by: str | None = None

    @property
    def num_supervised(self) -> float:
        """Supervised positions of a step, on average."""
        return statistics.mean(answer.num_supervised for answer in self.answers)

    @property
    def seconds(self) -> list[float]:
        """Seconds of each step."""
        return [answer.seconds for answer in self.answers]

    @property
    def processor_seconds(self) -> list[float]:
        """Seconds of the processor in each step; waiting for other processes is not in them."""
        return [answer.processor_seconds for answer in self.answers]


def compare(
    own: Sequence[str],
    peers: Mapping[str, Sequence[str]],
    *,
    rounds: int,
    advance: Callable[[], None],
) -> dict[str, Any]:
    """Seconds of a step of each side, and peers' seconds over ours with the middle half.

    A peer that stops is reported with its reason, and the others go on.

    Args:
        own: Command of our side.
        peers: Command of each peer, by name.
        rounds: Counted steps of each side.
        advance: Called after each round, the uncounted ones included.

    Raises:
        ConfigError: If sides differ in their weights or supervised positions.
        SideStoppedError: If our own side stops.
    """
    sides = [SideRun(own), *(SideRun(command) for command in peers.values())]
    with ExitStack() as running:
        for side in sides:
            _start(side, running)
        for index in range(-WARM_UP_STEPS, rounds):
            for side in random.Random(index).sample(sides, len(sides)):
                _take_step(side, is_counted=index >= 0)
            advance()
    ours, *others = sides
    if ours.stopped_by is not None:
        raise SideStoppedError(ours.stopped_by)
    for name, side in zip(peers, others, strict=True):
        _require_same_work(name, side, ours)
    return {
        "own": _figures(ours, ours),
        "peers": {name: _figures(side, ours) for name, side in zip(peers, others, strict=True)},
    }


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Median, and the ends of the middle half."""
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": median, "low": low, "high": high}


def _start(side: SideRun, running: ExitStack) -> None:
    try:
        side.process = running.enter_context(StepProcess(side.command))
    except SideStoppedError as error:
        side.stopped_by = str(error)


def _take_step(side: SideRun, *, is_counted: bool) -> None:
    if side.process is None or side.stopped_by is not None:
        return
    try:
        answer = side.process.take_step()
    except SideStoppedError as error:
        side.stopped_by = str(error)
        return
    if is_counted:
        side.answers.append(answer)


def _require_same_work(name: str, side: SideRun, ours: SideRun) -> None:
    if side.process is None or ours.process is None or side.stopped_by is not None:
        return
    if side.process.num_parameters != ours.process.num_parameters:
        raise ConfigError(
            f"{name}: trains {side.process.num_parameters} weights, this project "
            f"{ours.process.num_parameters}. Give both the same shape."
        )
    if abs(side.num_supervised / ours.num_supervised - 1) > SUPERVISED_TOLERANCE:
        raise ConfigError(
            f"{name}: supervises {side.num_supervised:.0f} positions in a step, this project "
            f"{ours.num_supervised:.0f}. Give both the same documents and anchors."
        )


def _figures(side: SideRun, ours: SideRun) -> dict[str, Any]:
    if side.process is None or side.stopped_by is not None:
        return {"stopped_by": side.stopped_by}
    return {
        "versions": side.process.versions,
        "num_parameters": side.process.num_parameters,
        "num_supervised": side.num_supervised,
        "seconds": quartiles(side.seconds),
        "ratio": _ratio(side.seconds, ours.seconds),
        "processor_seconds": quartiles(side.processor_seconds),
        "processor_ratio": _ratio(side.processor_seconds, ours.processor_seconds),
    }


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    return quartiles([a / b for a, b in zip(theirs, ours, strict=True)])
