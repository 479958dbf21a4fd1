"""Make the bundled demo models from nothing: `python -m dpace_training.demo.build`.

Every step leaves its result in a folder and is skipped when the result is there, so that a run
that was stopped goes on. Delete a result to have it made again.
"""

import itertools
import json
import logging
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM

from dpace_serve.config import load_config
from dpace_serve.demo.bundle import drafter_folder, prompts_file, target_folder
from dpace_training.config import TrainConfig
from dpace_training.data.target_model import load_target
from dpace_training.demo.corpus import library_texts, tasks
from dpace_training.demo.measure import measure_target
from dpace_training.demo.packing import DocumentStream
from dpace_training.demo.prompts import (
    held_out_tasks,
    write_held_out_prompts,
    write_shipped_prompts,
    write_study_prompts,
    write_training_prompts,
)
from dpace_training.demo.tables import RESULTS, update_tables
from dpace_training.demo.target import TargetConfig, train_target
from dpace_training.demo.tokenizer import train_tokenizer
from dpace_training.evaluation.compare import compare_drafters
from dpace_training.evaluation.config import ComparisonConfig
from dpace_training.fit.checkpoint import is_finished
from dpace_training.fit.run import train

WORK = Path("work/demo")
CONFIGS = Path("training/configs")
OBJECTIVES = ("uniform", "dflash", "dpace")
BUNDLED = ("dflash", "dpace")

TOKENIZER_TASKS = 20_000
TRAINING_TASKS, TRAINING_PIECES = 4_200, 1_200
HELD_OUT_PER_WORKLOAD = 200
COMPARED_PER_WORKLOAD = 1_000
SHIPPED_PER_WORKLOAD = 16
STUDY_PER_WORKLOAD = 100
# One family that prints records like three others, one that reckons like two others.
OUT_OF_DOMAIN = ("csv", "dates")
# Every use draws from a stream of its own; held-out questions are never trained on in any of them.
TOKENIZER_SEED, DRAFTER_SEED, QUALITY_SEED = 7, 11, 12
HELD_OUT_SEED, SHIPPED_SEED, COMPARISON_SEED, STUDY_SEED = 13, 14, 15, 16

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> None:
    """Build tokenizer, target and drafters into the package, and measure them.

    Args:
        arguments: `prompts` writes only the conversations that the demo recipes read.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if list(arguments) == ["prompts"]:
        write_prompts()
        return
    tokenizer = build_tokenizer(WORK / "tokenizer")
    build_target(tokenizer, WORK / "target-training", target_folder())
    measure(RESULTS / "demo-target.json")
    write_prompts()
    for objective in OBJECTIVES:
        build_drafter(objective)
    compare(RESULTS / "demo-drafters.json")
    update_tables(Path())


def build_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer in the folder, trained on tasks and library text if it is not there."""
    if not (folder / "tokenizer.json").exists():
        questions = itertools.islice(tasks(TOKENIZER_SEED, held_out=False), TOKENIZER_TASKS)
        texts = [f"{task.question}\n{task.answer}" for task in questions]
        train_tokenizer(texts + library_texts(held_out=False)).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise TypeError(f"{folder} must hold a fast tokenizer, holds {type(tokenizer).__name__}")
    return tokenizer


def build_target(tokenizer: PreTrainedTokenizerFast, work: Path, folder: Path) -> None:
    """Train the target, or go on with it, and save it in bfloat16 beside its tokenizer."""
    if (folder / "model.safetensors").exists():
        return
    config = TargetConfig()
    model: Qwen3ForCausalLM = train_target(
        lambda seed: DocumentStream(
            tokenizer, seed=seed, tokens=config.tokens, code_share=config.code_share
        ),
        config,
        work,
        vocab_size=len(tokenizer),
    )
    model.config.use_cache = True
    model.generation_config.eos_token_id = [2, 0]
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure(result: Path) -> None:
    """Write how many held-out questions the target answers right, and its perplexity."""
    if result.exists():
        return
    target = load_target(target_folder(), dtype=torch.float32)
    questions = held_out_tasks(QUALITY_SEED, per_workload=HELD_OUT_PER_WORKLOAD)
    quality = measure_target(target, questions, batch_size=64).to_dict()
    _write_json(result, {**quality, "python": platform.python_version()})


def write_prompts() -> None:
    """Write what the drafters are trained and measured on, and what the demo sends."""
    write_training_prompts(
        WORK / "conversations.jsonl",
        seed=DRAFTER_SEED,
        num_tasks=TRAINING_TASKS,
        num_pieces=TRAINING_PIECES,
    )
    write_held_out_prompts(
        WORK / "held_out.jsonl", seed=HELD_OUT_SEED, per_workload=HELD_OUT_PER_WORKLOAD
    )
    write_held_out_prompts(
        WORK / "comparison.jsonl", seed=COMPARISON_SEED, per_workload=COMPARED_PER_WORKLOAD
    )
    write_study_prompts(
        WORK / "reproduce",
        WORK / "conversations.jsonl",
        out_of_domain=OUT_OF_DOMAIN,
        seed=STUDY_SEED,
        per_workload=STUDY_PER_WORKLOAD,
    )
    write_shipped_prompts(prompts_file(), seed=SHIPPED_SEED, per_workload=SHIPPED_PER_WORKLOAD)


def build_drafter(objective: str) -> None:
    """Train one drafter from its committed recipe, and bundle it if the demo serves it."""
    config = load_config(TrainConfig, CONFIGS / f"demo-{objective}.yaml", [])
    if not is_finished(config.output):
        train(config)
    if objective in BUNDLED:
        bundled = drafter_folder(objective)
        bundled.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(config.output / name, bundled / name)


def compare(result: Path) -> None:
    """Write the acceptance of all drafters on the same held-out prompts."""
    if result.exists():
        return
    prompts = ComparisonConfig(
        conversations=WORK / "comparison.jsonl", max_new_tokens=96, batch_size=64
    )
    drafters = [
        load_config(TrainConfig, CONFIGS / f"demo-{objective}.yaml", []).output
        for objective in OBJECTIVES
    ]
    answers = WORK / "comparison-answers.jsonl"
    # Figures of the bundled files, which are made on a CPU.
    found = compare_drafters(
        target_folder(), drafters, prompts, device=torch.device("cpu"), answers=answers, store=None
    )
    _write_json(result, found)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    logger.info("wrote %s", path)


if __name__ == "__main__":
    main(sys.argv[1:])
