"""`dpace train`: steps, log, evaluations and checkpoints, from where the run stands to its end."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import torch

from dpace_training.config import TrainConfig
from dpace_training.data.prepare import PreparedData, prepare
from dpace_training.drafter.model import BlockDrafter
from dpace_training.evaluation.held_out import held_out_prompts, measure_acceptance
from dpace_training.evaluation.report import arm_record
from dpace_training.fit.checkpoint import write_config, write_drafter
from dpace_training.fit.ranks import Ranks
from dpace_training.fit.tracking import TrainingLog, statistics_record
from dpace_training.fit.trainer import StepResult, Trainer
from dpace_training.progress import progress_bar

logger = logging.getLogger(__name__)


def train(config: TrainConfig) -> dict[str, Any] | None:
    """Train a drafter and write it to `config.output`; go on if a run was cut there.

    With several processes, started by `torchrun` or `accelerate launch`, each calls this.

    Returns:
        The facts of the run, as written beside the drafter; None on all but the first process.

    Raises:
        ConfigError: If a setting or file is wrong, or the output holds another run.
        CheckpointError: If the target cannot be loaded, or a state cannot be read or written.
        TrainingError: If a loss is not finite.
    """
    ranks = Ranks()
    try:
        return _train(config, ranks)
    finally:
        ranks.leave()


def _train(config: TrainConfig, ranks: Ranks) -> dict[str, Any] | None:
    # What the first rank prepares the others find on disk.
    with ranks.first_alone():
        data = prepare(config)
    trainer = Trainer(config, data, ranks)
    journal = None
    if ranks.is_first:
        config.output.mkdir(parents=True, exist_ok=True)
        write_config(config.output, config)
        if trainer.step:
            logger.info("going on after step %d of %d", trainer.step, trainer.total_steps)
        journal = _Journal(config, data, trainer)
    _run_steps(config, data, trainer, journal)
    drafter = trainer.whole_drafter()
    if journal is None or drafter is None:
        return None
    facts = _facts(config, data, trainer, drafter) | {"evaluation": journal.evaluation}
    write_drafter(config.output, drafter.config, drafter.state_dict(), config, facts)
    return facts


class _Journal:
    """What the first rank writes down on the way.

    Attributes:
        evaluation: The newest evaluation of this process, if there was one.
    """

    def __init__(self, config: TrainConfig, data: PreparedData, trainer: Trainer) -> None:
        self.evaluation: dict[str, Any] | None = None
        self._config = config
        self._trainer = trainer
        self._log = TrainingLog(config.output / "log.jsonl", resumed_step=trainer.step)
        self._window: list[StepResult] = []
        self._held_out = held_out_prompts(
            data.target,
            data.held_out,
            data.drafter.target_layer_ids,
            batch_size=config.evaluation.batch_size,
        )

    def add(self, result: StepResult, *, is_last: bool) -> None:
        """Take note of a step; every few of them make a line of the log."""
        self._window.append(result)
        if self._trainer.step % self._config.fit.log_every == 0 or is_last:
            self._log.write(_window_record(self._trainer, self._window))
            self._window = []

    def evaluate(self, drafter: BlockDrafter) -> None:
        """Measure held-out acceptance and log it."""
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
        self._log.write({"step": step, "evaluation": self.evaluation})


def _run_steps(
    config: TrainConfig, data: PreparedData, trainer: Trainer, journal: _Journal | None
) -> None:
    """Take all remaining steps."""
    name = f"training {config.output.name}"
    with progress_bar(name, trainer.total_steps, is_silent=journal is None) as advance:
        advance(trainer.step, "")
        if trainer.step == trainer.total_steps and data.held_out:
            _evaluate(trainer, journal)
        while trainer.step < trainer.total_steps:
            started = time.monotonic()
            result = trainer.train_step()
            is_last = trainer.step == trainer.total_steps
            advance(1, f"loss {result.loss:.3f}, {time.monotonic() - started:.2f} s a step")
            if journal is not None:
                journal.add(result, is_last=is_last)
            if data.held_out and (trainer.step % config.evaluation.every == 0 or is_last):
                _evaluate(trainer, journal)
            if trainer.step % config.fit.save_every == 0 or is_last:
                trainer.save()


def _evaluate(trainer: Trainer, journal: _Journal | None) -> None:
    drafter = trainer.whole_drafter()
    if journal is not None and drafter is not None:
        journal.evaluate(drafter)


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


def _facts(
    config: TrainConfig,
    data: PreparedData,
    trainer: Trainer,
    drafter: BlockDrafter,
) -> dict[str, Any]:
    return {
        "target": str(config.target),
        "target_revision": data.target.revision,
        "steps": trainer.step,
        "documents": len(data.documents),
        "documents_without_anchor": trainer.num_without_anchor,
        "trained_tokens": data.num_trained_tokens,
        "target_agreement": data.agreement,
        "drafter_parameters": sum(p.numel() for p in drafter.parameters()),
        "torch": torch.__version__,
    }
