"""`dpace train`: steps, log, evaluations and checkpoints, from where the run stands to its end."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import torch

from dpace_training.config import TrainConfig
from dpace_training.data.prepare import PreparedData, prepare
from dpace_training.evaluation.held_out import (
    HeldOutPrompt,
    measure_acceptance,
    prompts_with_features,
)
from dpace_training.evaluation.report import arm_record
from dpace_training.fit.checkpoint import write_config, write_drafter
from dpace_training.fit.tracking import TrainingLog, statistics_record
from dpace_training.fit.trainer import StepResult, Trainer
from dpace_training.progress import progress_bar

logger = logging.getLogger(__name__)


def train(config: TrainConfig) -> dict[str, Any]:
    """Train a drafter and write it to `config.output`; go on if a run was cut there.

    Returns:
        The facts of the run, as written beside the drafter.

    Raises:
        ConfigError: If a setting or file is wrong, or the output holds another run.
        CheckpointError: If the target cannot be loaded or the saved state is damaged.
    """
    data = prepare(config)
    trainer = Trainer(config, data)
    config.output.mkdir(parents=True, exist_ok=True)
    write_config(config.output, config)
    if trainer.step:
        logger.info("going on after step %d of %d", trainer.step, trainer.total_steps)
    held_out = prompts_with_features(
        data.held_out, data.held_out_features, batch_size=config.evaluation.batch_size
    )
    evaluation = _run_steps(config, trainer, held_out)
    facts = _facts(config, data, trainer, evaluation)
    write_drafter(config.output, trainer.drafter, config, facts)
    return facts


def _run_steps(
    config: TrainConfig, trainer: Trainer, held_out: Sequence[HeldOutPrompt]
) -> dict[str, Any] | None:
    """Take all remaining steps; returns the last evaluation."""
    log = TrainingLog(config.output / "log.jsonl", resumed_step=trainer.step)
    window: list[StepResult] = []
    evaluation: dict[str, Any] | None = None
    with progress_bar(f"training {config.output.name}", trainer.total_steps) as advance:
        advance(trainer.step, "")
        while trainer.step < trainer.total_steps:
            started = time.monotonic()
            window.append(trainer.train_step())
            is_last = trainer.step == trainer.total_steps
            seconds = time.monotonic() - started
            advance(1, f"loss {window[-1].loss:.3f}, {seconds:.2f} s a step")
            if trainer.step % config.fit.log_every == 0 or is_last:
                log.write(_window_record(trainer, window))
                window = []
            if held_out and (trainer.step % config.evaluation.every == 0 or is_last):
                evaluation = _evaluate(config, trainer, held_out)
                log.write({"step": trainer.step, "evaluation": evaluation})
            if trainer.step % config.fit.save_every == 0 or is_last:
                trainer.save()
    if held_out and evaluation is None:
        evaluation = _evaluate(config, trainer, held_out)
    return evaluation


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


def _evaluate(
    config: TrainConfig, trainer: Trainer, held_out: Sequence[HeldOutPrompt]
) -> dict[str, Any]:
    arm = measure_acceptance(
        config.output.name,
        trainer.drafter,
        held_out,
        embedding=trainer.embedding,
        head=trainer.head,
    )
    record = arm_record(arm)
    logger.info("step %d: held-out tau %s", trainer.step, record["tau"])
    return record


def _facts(
    config: TrainConfig,
    data: PreparedData,
    trainer: Trainer,
    evaluation: dict[str, Any] | None,
) -> dict[str, Any]:
    return {
        "target": str(config.target),
        "target_revision": data.target.revision,
        "steps": trainer.step,
        "documents": len(data.documents),
        "documents_without_anchor": trainer.num_without_anchor,
        "trained_tokens": data.num_trained_tokens,
        "target_agreement": data.agreement,
        "drafter_parameters": sum(p.numel() for p in trainer.drafter.parameters()),
        "torch": torch.__version__,
        "evaluation": evaluation,
    }
