"""Time of one training step under several objectives, taken in turn in one process.

    python -m dpace_training.bench.step_time [--json FILE]

Random text and random hidden states: a step's time depends on neither. Every round takes one step
of each objective, in another order; the ratio to the baseline is taken round by round, so that a
machine that slows down for a while slows both.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from dpace_serve.config import build_config
from dpace_serve.demo.bundle import target_folder
from dpace_serve.demo.machine import this_machine
from dpace_serve.result_file import require_writable, write_json
from dpace_training.config import TrainConfig
from dpace_training.data.hidden_states import TargetFeatures
from dpace_training.data.prepare import PreparedData
from dpace_training.data.target_model import Target, load_target
from dpace_training.data.tokenize import TokenizedConversation
from dpace_training.drafter.shape import drafter_config
from dpace_training.fit.ranks import Ranks
from dpace_training.fit.trainer import Trainer
from dpace_training.progress import progress_bar

BASELINE = "dflash"
RECIPES = ("uniform", "dflash", "dpace", "auf", "left_to_right", "lk")
DOCUMENTS, TOKENS, PROMPT = 64, 96, 16
ROUNDS = 30


def compare(rounds: int) -> dict[str, Any]:
    """Median seconds of a step by recipe, and its ratio to the baseline with the middle half."""
    seconds: dict[str, list[float]] = {recipe: [] for recipe in RECIPES}
    with tempfile.TemporaryDirectory() as folder:
        trainers = _trainers(Path(folder))
        with progress_bar("training steps", rounds + 1) as advance:
            for index in range(rounds + 1):
                order = random.Random(index).sample(RECIPES, len(RECIPES))
                for recipe in order:
                    taken = _timed_step(trainers[recipe])
                    if index:  # the first step of all allocates
                        seconds[recipe].append(taken)
                advance(1, "")
    return {
        "machine": asdict(this_machine(Path("/proc/cpuinfo"))),
        "device": str(Ranks().device),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "baseline": BASELINE,
        "steps": {
            recipe: {
                "seconds": statistics.median(values),
                "ratio": _quartiles(
                    [a / b for a, b in zip(values, seconds[BASELINE], strict=True)]
                ),
            }
            for recipe, values in seconds.items()
        },
    }


def _timed_step(trainer: Trainer) -> float:
    _wait_for_device()
    started = time.perf_counter()
    trainer.train_step()
    _wait_for_device()
    return time.perf_counter() - started


def _wait_for_device() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def _quartiles(ratios: Sequence[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(ratios, n=4)
    return {"median": median, "low": low, "high": high}


def _trainers(folder: Path) -> dict[str, Trainer]:
    target = load_target(target_folder(), dtype=torch.float32)
    trainers = {}
    for recipe in RECIPES:
        config = build_config(TrainConfig, _settings(folder / recipe, recipe), source=recipe)
        trainers[recipe] = Trainer(config, _random_data(config, target), Ranks())
    return trainers


def _settings(output: Path, recipe: str) -> dict[str, Any]:
    return {
        "target": str(target_folder()),
        "output": str(output),
        "data": {"conversations": "random", "work": "random"},
        "drafter": {"num_hidden_layers": 2, "block_size": 8, "mask_token_id": 3},
        "loss": {"recipe": recipe},
        "fit": {"batch_size": 16, "num_anchors": 16, "epochs": 1000, "autocast": "bfloat16"},
    }


class _RandomFeatures:
    def __init__(self, target: Target, num_taps: int) -> None:
        hidden = target.model.config.hidden_size
        generator = torch.Generator().manual_seed(0)
        self._features = TargetFeatures(
            taps=torch.randn(TOKENS, num_taps * hidden, generator=generator),
            next_token=torch.zeros(TOKENS, dtype=torch.int32),
            final=torch.randn(TOKENS, hidden, generator=generator),
        )

    def of(self, indices: Sequence[int]) -> list[TargetFeatures]:
        return [self._features for _ in indices]


def _random_data(config: TrainConfig, target: Target) -> PreparedData:
    rng = random.Random(0)
    vocab = target.model.config.vocab_size
    documents = [
        TokenizedConversation(
            token_ids=tuple(rng.randrange(vocab) for _ in range(TOKENS)),
            loss_mask=tuple(i >= PROMPT for i in range(TOKENS)),
            workload="other",
            document_id=index,
        )
        for index in range(DOCUMENTS)
    ]
    features = _RandomFeatures(target, config.drafter.num_taps)
    return PreparedData(
        target=target,
        drafter=drafter_config(config, target),
        documents=documents,
        features=features,
        held_out=[],
        held_out_features=features,
        agreement=1.0,
    )


def main(
    rounds: Annotated[int, typer.Option(min=2, help="Steps of each objective.")] = ROUNDS,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Time a step of each recipe and print the ratios."""
    require_writable(json_file)
    result = compare(rounds)
    for recipe, step in result["steps"].items():
        ratio = step["ratio"]
        typer.echo(
            f"{recipe}: {step['seconds']:.3f} s a step, {ratio['median']:.3f} "
            f"[{ratio['low']:.3f}, {ratio['high']:.3f}] of {BASELINE}'s"
        )
    write_json(json_file, result)


if __name__ == "__main__":
    typer.run(main)
