"""What the first rank of a run writes down and shows on the way."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dpace_training.config import TrainConfig
from dpace_training.data.prepare import PreparedData
from dpace_training.drafter.model import BlockDrafter
from dpace_training.evaluation.held_out import measure_acceptance, prompts_with_features
from dpace_training.evaluation.report import arm_record
from dpace_training.fit.live import LiveProgress
from dpace_training.fit.trackers import TrackedLog, tracked_log
from dpace_training.fit.tracking import statistics_record
from dpace_training.fit.trainer import StepResult, Trainer
from dpace_training.progress import STDERR

logger = logging.getLogger(__name__)


class Journal:
    """Log, trackers, live display and held-out evaluations of a run; see `open_journal`.

    Attributes:
        evaluation: The newest evaluation of this process, if there was one.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: PreparedData,
        trainer: Trainer,
        log: TrackedLog,
        progress: LiveProgress,
    ) -> None:
        self.evaluation: dict[str, Any] | None = None
        self._config = config
        self._trainer = trainer
        self._log = log
        self._progress = progress
        self._window: list[StepResult] = []
        self._held_out = prompts_with_features(
            data.held_out, data.held_out_features, batch_size=config.evaluation.batch_size
        )

    def add(self, result: StepResult, *, seconds: float, is_last: bool) -> None:
        """Take note of a step; every few of them make a line of the log."""
        self._progress.advance(result, seconds=seconds)
        self._window.append(result)
        if self._trainer.step % self._config.fit.log_every == 0 or is_last:
            self._log.write(_window_record(self._trainer, self._window))
            self._window = []

    def evaluate(self, drafter: BlockDrafter, *, is_new: bool) -> None:
        """Measure held-out acceptance, and log it if the log does not have it yet."""
        arm = measure_acceptance(
            self._config.output.name,
            drafter,
            self._held_out,
            embedding=self._trainer.embedding,
            head=self._trainer.head,
        )
        self.evaluation = arm_record(arm)
        step = self._trainer.step
        logger.info("step %d: held-out tau %s", step, self.evaluation["tau"])
        if is_new:
            self._log.write({"step": step, "evaluation": self.evaluation})
        self._progress.evaluated(self.evaluation["tau"])


@contextmanager
def open_journal(config: TrainConfig, data: PreparedData, trainer: Trainer) -> Iterator[Journal]:
    """The journal of a run from where it stands; log and display are closed however it ends."""
    progress = LiveProgress(
        config.output.name, total_steps=trainer.total_steps, step=trainer.step, console=STDERR
    )
    with (
        tracked_log(config.output, config.fit.trackers, resumed_step=trainer.step) as log,
        progress,
    ):
        yield Journal(config, data, trainer, log, progress)


def _window_record(trainer: Trainer, window: Sequence[StepResult]) -> dict[str, Any]:
    statistics = sum((result.statistics for result in window[1:]), start=window[0].statistics)
    return {
        "step": trainer.step,
        "epoch": round(trainer.step / trainer.steps_per_epoch, 4),
        "learning_rate": window[-1].learning_rate,
        "loss": sum(result.loss for result in window) / len(window),
        "gradient_norm": sum(result.gradient_norm for result in window) / len(window),
        **statistics_record(statistics),
    }
