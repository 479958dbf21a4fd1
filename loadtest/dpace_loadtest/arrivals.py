"""When requests arrive: a seeded schedule that does not depend on how the server answers.

A process draws arrivals at one a second, and the rate over time stretches them: where the rate is
three a second, three of them fall into a second. Workers of one run take turns in the one
schedule, so that together they send exactly it, however many they are.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dpace_loadtest.rate_profile import ProfilePoint, RateProfile
from dpace_serve.config import Config
from dpace_serve.demo.prompts import read_lines
from dpace_serve.errors import ConfigError
from dpace_serve.outside_text import json_problem, parse_json

ProcessName = Literal["constant", "poisson", "gamma"]


class ArrivalConfig(Config):
    """How arrivals are spread over the time of a load."""

    process: ProcessName = "poisson"
    """`constant` keeps equal gaps; `poisson` is many users who know nothing of each other; `gamma`
    is the same with burstiness."""
    burstiness: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Shape of the gamma distribution, for `gamma` only: below 1 arrivals come in bursts, 1 is
    `poisson`, above 1 they are more even. The squared variation of the gaps is its inverse."""
    profile: tuple[ProfilePoint, ...] = ()
    """How the rate changes over time: points between which it is linear; none keeps it. A ramp is
    two points; a step is two points at the same second."""
    trace: Path | None = None
    """File with recorded arrivals, one a line: a number, or an object with `timestamp`. They
    replace process and profile, and are stretched so that their mean rate is the load."""
    trace_unit: Literal["s", "ms"] = "s"
    """Unit of the numbers in the trace."""

    @model_validator(mode="after")
    def _one_kind(self) -> "ArrivalConfig":
        if self.trace is not None and (self.profile or self.process != "poisson"):
            raise ValueError("a trace replaces process and profile; drop them or the trace")
        if self.process != "gamma" and self.burstiness != 1.0:
            raise ValueError(f"burstiness is for process gamma, not {self.process}; drop it")
        seconds = [point.seconds for point in self.profile]
        if seconds != sorted(seconds):
            raise ValueError("the seconds of a profile must not fall; sort its points")
        if self.profile and self.profile[-1].share == 0:
            raise ValueError("a profile must not end at share 0; the last share lasts to the end")
        return self


def arrivals(
    config: ArrivalConfig, *, rate: float, seed: str, recorded: Sequence[float] = ()
) -> Iterator[float]:
    """Seconds from the start of a load at which requests arrive, without end unless recorded.

    Args:
        config: How they are spread.
        rate: Mean requests/s where the profile's share is 1.
        seed: The same seed gives the same arrivals.
        recorded: What `read_trace` gave, where the configuration has a trace.
    """
    if config.trace is not None:
        stretch = trace_rate(recorded) / rate
        return (moment * stretch for moment in recorded)
    profile = RateProfile(config.profile, rate=rate)
    gaps = PROCESSES[config.process](random.Random(seed), config.burstiness)
    return (profile.moment_of(unit) for unit in itertools.accumulate(gaps))


def read_trace(config: ArrivalConfig) -> tuple[float, ...]:
    """Recorded arrivals in seconds from the first of them, in order; none without a trace.

    Raises:
        ConfigError: If the file cannot be read, has fewer than two arrivals or a line is no time.
    """
    if config.trace is None:
        return ()
    scale = 1.0 if config.trace_unit == "s" else 1e-3
    moments = sorted(
        _moment(line, place=f"{config.trace}:{number}") * scale
        for number, line in enumerate(read_lines(config.trace), start=1)
        if line.strip()
    )
    if len(moments) < 2 or moments[-1] == moments[0]:
        raise ConfigError(
            f"{config.trace}: a trace must hold two arrivals at different times, has "
            f"{len(moments)}. Give a longer one."
        )
    return tuple(moment - moments[0] for moment in moments)


def trace_rate(recorded: Sequence[float]) -> float:
    """Mean requests/s of recorded arrivals: their gaps over the time between first and last."""
    return (len(recorded) - 1) / (recorded[-1] - recorded[0])


def _moment(line: str, *, place: str) -> float:
    try:
        value = parse_json(line)
    except ValueError as error:
        raise ConfigError(
            f"{place}: not valid JSON ({json_problem(error)}). Correct the line."
        ) from None
    if isinstance(value, dict):
        value = value.get("timestamp")
    # json reads NaN and Infinity too; only a number is within these bounds.
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e15:
        raise ConfigError(
            f"{place}: must be a number or an object with a number as timestamp. Correct the line."
        )
    return float(value)


def _constant(_generator: random.Random, _burstiness: float) -> Iterator[float]:
    # The first arrives at once, as a clock's first tick does.
    return itertools.chain((0.0,), itertools.repeat(1.0))


def _poisson(generator: random.Random, _burstiness: float) -> Iterator[float]:
    while True:
        yield generator.expovariate(1.0)


def _gamma(generator: random.Random, burstiness: float) -> Iterator[float]:
    while True:
        yield generator.gammavariate(burstiness, 1.0 / burstiness)


PROCESSES: dict[ProcessName, Callable[[random.Random, float], Iterator[float]]] = {
    "constant": _constant,
    "poisson": _poisson,
    "gamma": _gamma,
}
