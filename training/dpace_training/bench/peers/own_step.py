"""A D-PACE step of this project's trainer, with drawing the anchors and laying out the batch."""

import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

from dpace_serve.demo.bundle import target_folder
from dpace_training.bench.peers.answering import Side, TakenStep, main
from dpace_training.bench.peers.size import Precision, StepSize
from dpace_training.bench.random_run import PROMPT, TOKENS, random_trainer
from dpace_training.data.target_model import load_target


def build(size: StepSize, *, attention: str, precision: Precision) -> Side:
    """This project's trainer on random documents, with `fit.attention` as asked for.

    Raises:
        ConfigError: If there is no such attention.
        ValueError: If the benchmarks differ in their documents.
    """
    if (size.num_tokens, size.num_prompt_tokens) != (TOKENS, PROMPT):
        raise ValueError(f"documents must have {TOKENS} tokens, {PROMPT} of them in the prompt")
    target = load_target(target_folder(), dtype=torch.float32)
    fit = {
        "attention": attention,
        "autocast": "none" if precision == "float32" else "bfloat16",
        "batch_size": size.num_documents,
        "num_anchors": size.num_anchors,
        "learning_rate": size.learning_rate,
        "clip_norm": size.clip_norm,
        # As both peers do.
        "allow_tail": True,
    }
    with tempfile.TemporaryDirectory() as folder:
        trainer = random_trainer(target, Path(folder) / "run", "dpace", fit)

    def take_step() -> TakenStep:
        step = trainer.train_step()
        return TakenStep(step.loss, step.statistics.positions.sum())

    return Side(
        versions={name: version(name) for name in ("dpace-serve", "torch", "transformers")},
        num_parameters=sum(weight.numel() for weight in trainer.drafter.parameters()),
        take_step=take_step,
    )


if __name__ == "__main__":
    main(build)
