"""`dpace study`: train every arm with every seed, replay held-out answers, and sum up."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dpace_serve.config import Config
from dpace_serve.durable_file import write_whole
from dpace_serve.errors import ConfigError
from dpace_training.config import RegenerateConfig, TrainConfig
from dpace_training.data.conversations import spread
from dpace_training.data.provenance import claim_key
from dpace_training.data.regenerate import regenerate_file
from dpace_training.data.sources import read_source
from dpace_training.data.target_model import Target, load_target, target_revision
from dpace_training.data.tokenize import (
    TokenizedConversation,
    require_verification_steps,
    tokenize_document,
)
from dpace_training.evaluation.compare import load_drafter
from dpace_training.evaluation.config import ComparisonConfig
from dpace_training.evaluation.held_out import (
    ArmAcceptance,
    HeldOutPrompt,
    held_out_prompts,
    measure_acceptance,
)
from dpace_training.fit.checkpoint import FACTS_FILE, is_finished
from dpace_training.fit.run import train
from dpace_training.fit.tracking import LOG_FILE, complete_lines
from dpace_training.study.config import HeldOutSet, StudyConfig
from dpace_training.study.summary import RunAcceptance, RunResult, study_result
from dpace_training.writing import writing

ACCEPTANCE_FILE = "held_out.json"
TRAINED_FILE = "model.safetensors"

logger = logging.getLogger(__name__)


def run_study(config: StudyConfig, device: torch.device) -> dict[str, Any]:
    """Do what is left of a study and return its result.

    A finished run is not repeated, a cut one goes on. Several processes may share the work, each
    with seeds of its own; the last call, with all seeds, finds all runs finished.

    Args:
        config: The study.
        device: Where target and drafters compute when they are measured; training finds its own.

    Raises:
        ConfigError: If a file or setting is wrong, or the folder holds another study's runs.
        CheckpointError: If the target cannot be loaded, a drafter is damaged, or the disk refuses.
    """
    measure = _Measure(config, device)
    results = []
    for seed in config.seeds:
        for arm in config.arms:
            run = config.run(arm, seed)
            claim_key(run.output / "run.key.json", _run_key(run), what="a run of the study")
            if not is_finished(run.output):
                measure.require_steps()
                logger.info("training %s with seed %d", arm, seed)
                train(run)
            facts = _facts(run.output, config.steps.get(arm, 0))
            acceptance = measure.acceptance(run.output)
            steps, parameters = facts["steps"], facts["drafter_parameters"]
            curve = _curve(run.output)
            results.append(RunResult(arm, seed, steps, parameters, acceptance, curve))
    return study_result(config, results)


@dataclass(frozen=True, slots=True)
class _LoadedSets:
    target: Target
    prompts: dict[str, list[HeldOutPrompt]]


class _Measure:
    """Replays the held-out answers; they and the target are loaded when first needed."""

    def __init__(self, config: StudyConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._dtype: torch.dtype = getattr(torch, config.dtype)
        self._loaded: _LoadedSets | None = None
        self._has_steps = False

    def require_steps(self) -> None:
        """Find out, before hours of training, whether there will be something to measure.

        Raises:
            ConfigError: If a set's prompts are refused, or no answer to them has a second token.
        """
        if self._has_steps:
            return
        # Not kept: training needs the memory.
        target = self._load_target()
        for name, held_out in self._sets.items():
            self._answered(target, name, held_out)
        self._has_steps = True

    def acceptance(self, folder: Path) -> dict[str, RunAcceptance]:
        """Acceptance of the drafter in this folder on every set, measured once."""
        key: dict[str, Any] = {name: _set_key(held_out) for name, held_out in self._sets.items()}
        key["drafter"] = _digest(folder / TRAINED_FILE)
        if self._config.dtype != ComparisonConfig().dtype:  # figures from before lack the key
            key["dtype of target and drafter"] = self._config.dtype  # no set can have this name
        claim_key(folder / "held_out.key.json", key, what="acceptance on held-out prompts")
        path = folder / ACCEPTANCE_FILE
        if path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            return {name: RunAcceptance.from_record(record) for name, record in stored.items()}
        measured = self._measured(folder)
        records = {name: acceptance.to_record() for name, acceptance in measured.items()}
        text = json.dumps(records) + "\n"
        with writing(path):
            write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))
        return measured

    @property
    def _sets(self) -> dict[str, HeldOutSet]:
        return self._config.held_out

    def _measured(self, folder: Path) -> dict[str, RunAcceptance]:
        drafter = load_drafter(folder).to(self._device, self._dtype)
        if self._loaded is None:
            self._loaded = self._load(drafter.config.target_layer_ids)
        model = self._loaded.target.model
        return {
            name: _run_acceptance(
                measure_acceptance(
                    f"{folder.parent.name} on {name}",
                    drafter,
                    prompts,
                    embedding=model.get_input_embeddings().weight,
                    head=model.get_output_embeddings().weight,
                )
            )
            for name, prompts in self._loaded.prompts.items()
        }

    def _load(self, layer_ids: tuple[int, ...]) -> _LoadedSets:
        target = self._load_target()
        batch_size = self._config.base.evaluation.batch_size
        prompts = {
            name: held_out_prompts(
                target, self._answered(target, name, held_out), layer_ids, batch_size=batch_size
            )
            for name, held_out in self._sets.items()
        }
        return _LoadedSets(target, prompts)

    def _load_target(self) -> Target:
        base = self._config.base
        return load_target(
            base.target,
            dtype=self._dtype,
            device=self._device,
            enable_thinking=base.data.enable_thinking,
        )

    def _answered(
        self, target: Target, name: str, held_out: HeldOutSet
    ) -> list[TokenizedConversation]:
        settings = RegenerateConfig(
            temperature=held_out.temperature,
            seed=held_out.seed,
            max_new_tokens=held_out.max_new_tokens,
            batch_size=self._config.base.evaluation.batch_size,
        )
        prompts = read_source(held_out.conversations, held_out.input, needs_prompt=True)
        source = spread(prompts, held_out.max_documents)
        destination = self._config.base.output / f"answers-{name}.jsonl"
        answered = regenerate_file(target, source, destination, settings)
        documents = [
            tokenize_document(
                target.tokenizer,
                document,
                end_ids=target.end_ids,
                max_tokens=target.max_positions,
                enable_thinking=target.enable_thinking,
            )
            for document in answered
        ]
        require_verification_steps(documents, source=held_out.conversations)
        return documents


def _run_key(run: TrainConfig) -> dict[str, Any]:
    """Everything that a run depends on, but for the code."""
    return {
        "settings": _settings(run, {"output"}),
        "target": target_revision(run.target),
        "text": _digest(run.data.conversations),
    }


def _set_key(held_out: HeldOutSet) -> dict[str, Any]:
    """Everything that the figures of a set depend on beside the drafter."""
    return {**_settings(held_out, set()), "text": _digest(held_out.conversations)}


def _settings(config: Config, exclude: set[str]) -> dict[str, Any]:
    # Without defaults: a setting that is added later leaves finished runs valid.
    return config.model_dump(mode="json", exclude=exclude, exclude_defaults=True)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}). Check the path; a study takes files."
        ) from None


def _run_acceptance(arm: ArmAcceptance) -> RunAcceptance:
    total = arm.total
    return RunAcceptance(pairs=arm.pairs, accepted=total.accepted, drafted=total.drafted)


def _facts(folder: Path, wanted: int) -> dict[str, Any]:
    """The facts of a finished run, which must have as many optimizer steps as were asked for."""
    facts: dict[str, Any] = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
    if facts["steps"] < wanted:
        raise ConfigError(
            f"{folder}: {wanted} steps were asked for and base.fit.epochs ends after "
            f"{facts['steps']}. Raise base.fit.epochs and name another base.output."
        )
    return facts


def _curve(folder: Path) -> dict[int, float]:
    """Held-out tau by step, as it was logged while training."""
    records = [json.loads(line) for line in complete_lines(folder / LOG_FILE)]
    return {
        record["step"]: record["evaluation"]["tau"]
        for record in records
        if record.get("evaluation") is not None
    }
