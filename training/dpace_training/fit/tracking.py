"""The training log: one JSON object per line, cut back to the saved step when a run resumes."""

import json
import math
from pathlib import Path
from typing import Any

from dpace_training.losses.statistics import ObjectiveStatistics

DIGITS = 6
LOG_FILE = "log.jsonl"


class TrainingLog:
    """Appends to `log.jsonl`; every line has a `step`."""

    def __init__(self, path: Path, *, resumed_step: int) -> None:
        """Open the log, without the lines that a resumed run is going to write again."""
        kept = [line for line in complete_lines(path) if json.loads(line)["step"] <= resumed_step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        temporary.replace(path)
        self._path = path

    def write(self, record: dict[str, Any]) -> None:
        """Append one line.

        Raises:
            ValueError: If a number is not finite, which JSON cannot hold.
        """
        line = json.dumps(record, allow_nan=False) + "\n"
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)


def statistics_record(statistics: ObjectiveStatistics) -> dict[str, Any]:
    """What to log about the objective; lists run over the draft positions, from 1.

    A mean over nothing is None: behind the first error accept-until-fail looks at no position.
    """
    return {
        "weight_share": _row(statistics.weight_share.tolist()),
        "token_loss": _row(statistics.mean_token_loss.tolist()),
        "accuracy": _row(statistics.accuracy.tolist()),
        "confidence": _row(statistics.mean_confidence.tolist()),
        "overlap": _row(statistics.mean_overlap.tolist()),
        "leading_run": _number(float(statistics.mean_leading_run)),
        "joint": _number(float(statistics.joint / statistics.blocks)),
    }


def complete_lines(path: Path) -> list[str]:
    """The lines of a log, each with its newline; no lines where there is no log yet."""
    if not path.exists():
        return []
    # A run that was cut in the middle of a line leaves no newline behind it.
    return [line for line in path.read_text(encoding="utf-8").splitlines(True) if line[-1] == "\n"]


def _row(values: list[float]) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, DIGITS)
