"""The plan of a run: which arm is under which load when, and what its requests are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dpace_loadtest.arrivals import arrivals
from dpace_loadtest.rows import Phase
from dpace_loadtest.scenario import ArmConfig, ScenarioConfig
from dpace_serve.errors import ConfigError

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class Cell:
    """One arm under one load in one round; cells run one after the other.

    Attributes:
        arm: What is asked.
        load: Requests/s in an open loop, users in a closed one.
        round: Number of the round, from 0.
        seed: Of its arrivals and prompts; the same for all arms, so that they are asked the same.
    """

    arm: ArmConfig
    load: float
    round: int
    seed: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request, or one conversation, that is due.

    Attributes:
        number: Its place in the schedule of the cell, from 0.
        seconds: When it is due, from the start of the cell.
        phase: Whether it counts.
    """

    number: int
    seconds: float
    phase: Phase


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the run's workers this is.

    Attributes:
        worker: From 0.
        num_workers: How many there are.
    """

    worker: int
    num_workers: int


def cells(scenario: ScenarioConfig) -> list[Cell]:
    """All cells in the order of the run.

    Arms take turns within each load, so that they meet the same state of the machine, and every
    second round reverses them, so that none always comes first.
    """
    return [
        Cell(arm, load, number, f"{scenario.seed}/{number}/{load:g}")
        for number in range(scenario.rounds)
        for load in scenario.loads
        for arm in (scenario.arms if number % 2 == 0 else reversed(scenario.arms))
    ]


def open_schedule(scenario: ScenarioConfig, cell: Cell, recorded: Sequence[float]) -> list[Arrival]:
    """Every arrival of an open loop's cell, warm-up first.

    Args:
        scenario: Says how many, or for how long.
        cell: Says how fast.
        recorded: Arrivals of the scenario's trace; empty without one.

    Raises:
        ConfigError: If a trace ends before the cell does.
    """
    moments = arrivals(
        scenario.arrivals, rate=cell.load, seed=f"{cell.seed}/arrivals", recorded=recorded
    )
    chosen = list(_cut(moments, scenario))
    if recorded and len(chosen) == len(recorded):
        raise ConfigError(
            f"arrivals.trace: at {cell.load:g} requests/s it ends before the load does. Measure "
            "for less time or fewer requests, or give a longer trace."
        )
    return [
        Arrival(number, moment, "warm_up" if moment < scenario.warm_up_seconds else "measured")
        for number, moment in enumerate(chosen)
    ]


def worker_share(whole: Sequence[ItemT], place: Place) -> Sequence[ItemT]:
    """What one worker sends of a schedule: every `num_workers`-th, so that shares never overlap."""
    return whole[place.worker :: place.num_workers]


def _cut(moments: Iterator[float], scenario: ScenarioConfig) -> Iterator[float]:
    """The first arrivals, as long or as many as the scenario says."""
    num_measured = 0
    for moment in moments:
        if scenario.duration_seconds is not None:
            if moment >= scenario.warm_up_seconds + scenario.duration_seconds:
                return
        elif num_measured == scenario.num_requests:
            return
        num_measured += moment >= scenario.warm_up_seconds
        yield moment
