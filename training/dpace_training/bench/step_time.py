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

from dpace_serve.demo.bundle import target_folder
from dpace_serve.demo.machine import this_machine
from dpace_serve.result_file import require_writable, write_json
from dpace_training.bench.random_run import random_trainer
from dpace_training.data.target_model import load_target
from dpace_training.fit.ranks import Ranks
from dpace_training.fit.trainer import Trainer
from dpace_training.progress import progress_bar

BASELINE = "dflash"
RECIPES = ("uniform", "dflash", "dpace", "auf", "left_to_right", "lk")
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
    return {
        recipe: random_trainer(target, folder / recipe, recipe, {"autocast": "bfloat16"})
        for recipe in RECIPES
    }


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
