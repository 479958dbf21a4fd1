"""`dpace train`: steps, log, evaluations and checkpoints, from where the run stands to its end."""

import logging
import os
import time
from contextlib import nullcontext
from typing import Any

import torch

from dpace_training.config import TrainConfig
from dpace_training.data.prepare import PreparedData, prepare
from dpace_training.drafter.model import BlockDrafter
from dpace_training.fit.batches import anchor_coverage
from dpace_training.fit.checkpoint import write_config, write_drafter
from dpace_training.fit.journal import Journal, open_journal
from dpace_training.fit.launcher import require_no_launcher_settings
from dpace_training.fit.ranks import Ranks
from dpace_training.fit.requirements import require_computable
from dpace_training.fit.size import (
    num_parameters,
    num_specialist_parameters,
    peak_megabytes,
    size_line,
)
from dpace_training.fit.trackers import require_trackers
from dpace_training.fit.trainer import Trainer

COVERAGE_DOCUMENTS = 1024

logger = logging.getLogger(__name__)


def train(config: TrainConfig) -> dict[str, Any] | None:
    """Train a drafter and write it to `config.output`; go on if a run was cut there.

    With several processes, started by `torchrun` or `accelerate launch`, each calls this.

    Returns:
        The facts of the run, as written beside the drafter; None on all but the first process.

    Raises:
        ConfigError: If a setting or file is wrong, the launcher asks for what our settings say, or
            the output holds another run.
        CheckpointError: If the target cannot be loaded, a state cannot be read, or the disk refuses
            to write; the same command then goes on from what was saved.
        TrainingError: If a loss is not finite.
    """
    require_trackers(config.fit.trackers)
    require_no_launcher_settings(os.environ, has_gpu=torch.cuda.is_available())
    ranks = Ranks()
    try:
        require_computable(config.fit, ranks.device)
        return _train(config, ranks)
    finally:
        ranks.leave()


def _train(config: TrainConfig, ranks: Ranks) -> dict[str, Any] | None:
    # What the first rank prepares the others find on disk.
    with ranks.first_alone():
        data = prepare(config, ranks.device)
    trainer = Trainer(config, data, ranks)
    if ranks.is_first:
        write_config(config.output, config)
        logger.info("%s", size_line(trainer.drafter))
        logger.info(
            "blocks of an epoch predict %.1f %% of the trained tokens",
            100 * _coverage(config, data),
        )
        if trainer.step:
            logger.info("going on after step %d of %d", trainer.step, trainer.total_steps)
    with open_journal(config, data, trainer) if ranks.is_first else nullcontext() as journal:
        _run_steps(config, data, trainer, journal)
    drafter = trainer.whole_drafter()
    if journal is None or drafter is None:
        return None
    logger.info("at most %.0f MB of memory were used", peak_megabytes(ranks.device))
    facts = _facts(config, data, trainer, drafter) | {"evaluation": journal.evaluation}
    write_drafter(config.output, drafter.config, drafter.state_dict(), config, facts)
    return facts


def _run_steps(
    config: TrainConfig, data: PreparedData, trainer: Trainer, journal: Journal | None
) -> None:
    """Take all remaining steps."""
    if trainer.step == trainer.total_steps and data.held_out:
        _evaluate(trainer, journal, is_new=False)
    while trainer.step < trainer.total_steps:
        started = time.monotonic()
        result = trainer.train_step()
        is_last = trainer.step == trainer.total_steps
        if journal is not None:
            journal.add(result, seconds=time.monotonic() - started, is_last=is_last)
        if data.held_out and (trainer.step % config.evaluation.every == 0 or is_last):
            _evaluate(trainer, journal, is_new=True)
        if trainer.step % config.fit.save_every == 0 or is_last:
            trainer.save()


def _evaluate(trainer: Trainer, journal: Journal | None, *, is_new: bool) -> None:
    drafter = trainer.whole_drafter()
    if journal is not None and drafter is not None:
        journal.evaluate(drafter, is_new=is_new)


def _coverage(config: TrainConfig, data: PreparedData) -> float:
    """Anchor coverage, judged by some of the documents."""
    documents = data.documents[:COVERAGE_DOCUMENTS]
    return anchor_coverage(documents, block_size=data.drafter.block_size, fit=config.fit)


def _facts(
    config: TrainConfig, data: PreparedData, trainer: Trainer, drafter: BlockDrafter
) -> dict[str, Any]:
    return {
        "target": str(config.target),
        "target_revision": data.target.revision,
        "steps": trainer.step,
        "documents": len(data.documents),
        "documents_without_anchor": trainer.num_without_anchor,
        "trained_tokens": data.num_trained_tokens,
        "anchor_coverage": _coverage(config, data),
        "target_agreement": data.agreement,
        "drafter_parameters": num_parameters(drafter),
        "specialist_parameters": num_specialist_parameters(drafter),
        "torch": torch.__version__,
    }
