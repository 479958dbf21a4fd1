"""The course of a training run, read back from its log."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpace_serve.errors import ConfigError
from dpace_serve.outside_text import parse_json
from dpace_training.fit.tracking import LOG_FILE, complete_lines

Numbers = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class LoggedSteps:
    """Means over the steps since the line before; the numbers that do not exist are None."""

    step: int
    loss: float | None
    gradient_norm: float | None
    weight_share: Numbers
    """Share of the total weight by draft position, from 1."""


@dataclass(frozen=True, slots=True)
class LoggedEvaluation:
    """Greedy acceptance on the held-out prompts after a step."""

    step: int
    tau: float | None
    tau_low: float | None
    tau_high: float | None
    accepted_per_position: Numbers
    """Share of verification steps that accepted the draft at a position, from 1."""


@dataclass(frozen=True, slots=True)
class TrainingHistory:
    """What a log holds, in the order of the steps; a run that was cut has less of it."""

    steps: tuple[LoggedSteps, ...]
    evaluations: tuple[LoggedEvaluation, ...]

    @property
    def last_step(self) -> int:
        """The last step that the log knows of."""
        return max([line.step for line in self.steps] + [line.step for line in self.evaluations])


def read_history(output: Path) -> TrainingHistory:
    """Read the log in the output folder of a run.

    Raises:
        ConfigError: If there is no log, it holds no line yet, or a line is no log line.
    """
    path = output / LOG_FILE
    steps: list[LoggedSteps] = []
    evaluations: list[LoggedEvaluation] = []
    for number, line in enumerate(_read(path), start=1):
        try:
            record = parse_json(line)
            if "evaluation" in record:
                evaluations.append(_evaluation(record["step"], record["evaluation"]))
            else:
                steps.append(_steps(record))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path}: line {number} is no line of a training log ({error!r}). "
                "Give the output folder of `dpace train`."
            ) from None
    if not steps and not evaluations:
        raise ConfigError(
            f"{path}: holds no finished line. Give the output folder of a run that has logged a "
            "step (fit.log_every)."
        )
    return TrainingHistory(tuple(steps), tuple(evaluations))


def _read(path: Path) -> list[str]:
    try:
        return complete_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}). Check the path.") from None


def _steps(record: dict[str, Any]) -> LoggedSteps:
    return LoggedSteps(
        step=int(record["step"]),
        loss=_number(record["loss"]),
        gradient_norm=_number(record["gradient_norm"]),
        weight_share=_numbers(record["weight_share"]),
    )


def _evaluation(step: int, record: dict[str, Any]) -> LoggedEvaluation:
    return LoggedEvaluation(
        step=int(step),
        tau=_number(record["tau"]),
        tau_low=_number(record["tau_low"]),
        tau_high=_number(record["tau_high"]),
        accepted_per_position=_numbers(record["accepted_per_position"]),
    )


def _numbers(values: list[float | None]) -> Numbers:
    return tuple(_number(value) for value in values)


def _number(value: float | None) -> float | None:
    # A mean over nothing is NaN in the log.
    return None if value is None or not math.isfinite(value) else float(value)
