"""The training log, and the same scalars in TensorBoard and other trackers as the run goes on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from accelerate.tracking import (
    LOGGER_TYPE_TO_CLASS,
    GeneralTracker,
    TensorBoardTracker,
    get_available_trackers,
)

from dpace_serve.errors import ConfigError
from dpace_training.config import TrackerName
from dpace_training.fit.tracking import LOG_FILE, TrainingLog
from dpace_training.writing import writing


class TrackedLog:
    """Writes each record to `log.jsonl`, and its numbers to every tracker."""

    def __init__(self, log: TrainingLog, trackers: Mapping[Path, GeneralTracker]) -> None:
        """Write to the log and to these trackers, each under the name that an error calls it."""
        self._log = log
        self._trackers = trackers

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; it has a `step`."""
        self._log.write(record)
        for place, tracker in self._trackers.items():
            with writing(place):
                tracker.log(scalars(record), step=record["step"])


def require_trackers(names: Sequence[TrackerName]) -> None:
    """Refuse trackers that are not installed, before any work is done.

    Raises:
        ConfigError: If a tracker is not installed.
    """
    available = {str(name.value) for name in get_available_trackers()}
    for name in names:
        if name not in available:
            raise ConfigError(
                f"fit.trackers: {name} is not installed. Install it, or take it from the list."
            )


@contextmanager
def tracked_log(
    output: Path, names: Sequence[TrackerName], *, resumed_step: int
) -> Iterator[TrackedLog]:
    """Open the log and the trackers of a run; trackers are closed however the run ends.

    TensorBoard's files lie in `tensorboard/` of the output and, like the log, lose what a resumed
    run is going to write again. The others know their own places, and begin a new run.

    Args:
        output: Folder of the run; its name is the project's name in trackers that want one.
        names: Trackers beside the log.
        resumed_step: Step that the run goes on from, 0 for a new one.

    Raises:
        CheckpointError: If the disk refuses the log or what a tracker writes.
    """
    log = TrainingLog(output / LOG_FILE, resumed_step=resumed_step)
    with ExitStack() as stack:
        trackers = {output / name: _make_tracker(name, output, resumed_step) for name in names}
        for place, tracker in trackers.items():
            stack.enter_context(_running(tracker, place))
        yield TrackedLog(log, trackers)


def scalars(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a log record under the log's own names; lists count positions from 1.

    `{"loss": 2.0, "weight_share": [0.7, 0.3]}` becomes `loss`, `weight_share/1`, `weight_share/2`.
    """
    flat: dict[str, float] = {}
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= scalars(value, f"{name}/")
        elif isinstance(value, list):
            flat |= scalars({str(i): item for i, item in enumerate(value, 1)}, f"{name}/")
        elif isinstance(value, int | float) and name != "step":
            flat[name] = float(value)
    return flat


@contextmanager
def _running(tracker: GeneralTracker, place: Path) -> Iterator[None]:
    with writing(place):
        tracker.start()
    try:
        yield
    finally:
        with writing(place):
            tracker.finish()


def _make_tracker(name: TrackerName, output: Path, resumed_step: int) -> GeneralTracker:
    if name == "tensorboard":
        return TensorBoardTracker("tensorboard", output, purge_step=resumed_step + 1)
    kind = LOGGER_TYPE_TO_CLASS[name]
    places = [output] if kind.requires_logging_directory else []
    return kind(output.resolve().name, *places)
