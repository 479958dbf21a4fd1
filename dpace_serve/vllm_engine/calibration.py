"""Calibrated step times of what is served: from a file of `dpace tune`."""

import logging
from pathlib import Path

from dpace_serve.acceptance.step_times import StepTimes, TimedPoint
from dpace_serve.drafter import checkpoint
from dpace_serve.errors import ConfigError
from dpace_serve.serve_config import ServeConfig
from dpace_serve.vllm_engine.block_schedule import BlockSchedule, read_schedule

logger = logging.getLogger(__name__)


def read_step_times(config: ServeConfig) -> StepTimes | None:
    """The times of `step_times`, else those of the block schedule if it has enough of them.

    Raises:
        ConfigError: If a file cannot be read, or `step_times` holds no usable times.
    """
    if config.step_times is not None:
        try:
            return _times(read_schedule(config.step_times))
        except ValueError as error:
            raise ConfigError(
                f"{config.step_times}: {error} Measure them with `dpace tune`."
            ) from None
    if config.block_schedule is not None:
        try:
            return _times(read_schedule(config.block_schedule))
        except ValueError:  # a schedule is also served without
            return None
    return None


def require_fitting_step_times(config: ServeConfig) -> None:
    """Refuse step times that cannot be used, and say where there are none or others.

    Times depend on the shapes of target and drafter, not on their weights, so another revision is
    no error. Needs no engine.

    Raises:
        CheckpointError: If the drafter cannot be read.
        ConfigError: If a file cannot be read, or `step_times` holds no usable times.
    """
    times = read_step_times(config)
    if config.step_times is not None and config.drafter is not None:
        _warn_of_other_revision(config.step_times, config.drafter)
    elif config.block_schedule is not None and times is None:
        logger.warning(
            "%s: has no times of every length, 0 among them, at every batch size, so no speed-up "
            "is estimated. Give others with step_times.",
            config.block_schedule,
        )


def _times(schedule: BlockSchedule) -> StepTimes:
    return StepTimes.from_points(
        TimedPoint(point.num_draft_tokens, point.batch_size, point.step_ms / 1000)
        for point in schedule.measured
    )


def _warn_of_other_revision(path: Path, drafter: Path) -> None:
    measured, revision = read_schedule(path), checkpoint.revision(drafter)
    if measured.revision != revision:
        logger.warning(
            "%s: measured with revision %s of %s, the drafter is revision %s. The times hold only "
            "if both have the same shape.",
            path,
            measured.revision,
            measured.drafter,
            revision,
        )
