"""The training log: one JSON object per line, cut back to the saved step when a run resumes."""

import json
import math
from pathlib import Path
from typing import Any

from dpace_serve.durable_file import write_whole
from dpace_serve.errors import CheckpointError
from dpace_serve.outside_text import parse_json
from dpace_training.losses.statistics import ObjectiveStatistics
from dpace_training.writing import writing

DIGITS = 6
LOG_FILE = "log.jsonl"


class TrainingLog:
    """Appends to `log.jsonl`; every line has a `step`."""

    def __init__(self, path: Path, *, resumed_step: int) -> None:
        """Open the log, without the lines that a resumed run is going to write again.

        Raises:
            CheckpointError: If the log is damaged or cannot be written; it is untouched then.
        """
        kept = "".join(_lines_until(path, resumed_step))
        with writing(path):
            write_whole(path, lambda file: file.write_text(kept, encoding="utf-8"))
        self._path = path

    def write(self, record: dict[str, Any]) -> None:
        """Append one line.

        Raises:
            CheckpointError: If the disk refuses; what it took of the line goes when a run resumes.
            ValueError: If a number is not finite, which JSON cannot hold.
        """
        line = json.dumps(record, allow_nan=False) + "\n"
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
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


def _lines_until(path: Path, step: int) -> list[str]:
    try:
        return [line for line in complete_lines(path) if parse_json(line)["step"] <= step]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: holds a line that is none of a training log ({error!r}). Restore the file, "
            "or delete it: the run goes on and logs only its further steps."
        ) from None


def _row(values: list[float]) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, DIGITS)
