"""Time of one training step under several objectives and ways of computing, in turn.

    python -m dpace_training.bench.step_time [--json FILE]
    python -m dpace_training.bench.step_time --study FILE [overrides] [--json FILE]

Without a study: random text and random hidden states. With a finished one: its arms on its data,
each from the drafter that its baseline ended with, since accept-until-fail computes as far as the
drafter gets. Every round takes one step of each arm, in another order; the ratio to the baseline is
taken round by round, so that a machine that slows down for a while slows both.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from dpace_serve.config import load_config
from dpace_serve.demo.bundle import target_folder
from dpace_serve.demo.machine import this_machine
from dpace_serve.result_file import require_writable, write_json
from dpace_training.bench.random_run import random_trainer
from dpace_training.data.prepare import prepare
from dpace_training.data.target_model import load_target
from dpace_training.fit.ranks import Ranks
from dpace_training.fit.trainer import Trainer
from dpace_training.progress import progress_bar
from dpace_training.study.config import StudyConfig

BASELINE = "dflash"
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("uniform", "dflash", "dpace", "auf", "left_to_right", "lk")},
    "dflash, sdpa": ("dflash", {"attention": "sdpa"}),
}
"""Recipe and settings of `fit` by the name of the arm."""
ROUNDS = 30


def random_arms(folder: Path) -> dict[str, Trainer]:
    """A trainer for each of ARMS on random text; nothing is written to the folder."""
    target = load_target(target_folder(), dtype=torch.float32)
    return {
        arm: random_trainer(target, folder / arm, recipe, {"autocast": "bfloat16"} | fit)
        for arm, (recipe, fit) in ARMS.items()
    }


def study_arms(study: StudyConfig, folder: Path) -> dict[str, Trainer]:
    """A trainer for each arm of a study, from the drafter of its baseline with its first seed.

    Raises:
        CheckpointError: If the baseline has not been trained.
    """
    seed = study.seeds[0]
    trained = study.run(study.baseline, seed).output
    trainers = {}
    for arm in study.arms:
        run = study.run(arm, seed)
        drafter = run.drafter.model_copy(update={"init_from": trained})
        config = run.model_copy(update={"drafter": drafter, "output": folder / arm})
        trainers[arm] = Trainer(config, prepare(config), Ranks())
    return trainers


def compare(trainers: Mapping[str, Trainer], baseline: str, rounds: int) -> dict[str, Any]:
    """Median seconds of a step by arm, and its ratio to the baseline with the middle half."""
    seconds: dict[str, list[float]] = {arm: [] for arm in trainers}
    with progress_bar("training steps", rounds + 1) as advance:
        for index in range(rounds + 1):
            for arm in random.Random(index).sample(list(trainers), len(trainers)):
                taken = _timed_step(trainers[arm])
                if index:  # the first step of all allocates
                    seconds[arm].append(taken)
            advance(1, "")
    return {
        "machine": asdict(this_machine(Path("/proc/cpuinfo"))),
        "device": str(Ranks().device),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "baseline": baseline,
        "steps": {
            arm: {
                "seconds": statistics.median(values),
                "ratio": _quartiles(
                    [a / b for a, b in zip(values, seconds[baseline], strict=True)]
                ),
            }
            for arm, values in seconds.items()
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


def main(
    overrides: Annotated[list[str] | None, typer.Argument(help="Of the study.")] = None,
    study: Annotated[Path | None, typer.Option(help="A finished study's file.")] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Steps of each arm.")] = ROUNDS,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Time a step of each arm and print the ratios."""
    if overrides and study is None:
        raise typer.BadParameter("overrides are of a study: name its file with --study")
    require_writable(json_file)
    with tempfile.TemporaryDirectory() as folder:
        if study is None:
            result = compare(random_arms(Path(folder)), BASELINE, rounds)
        else:
            config = load_config(StudyConfig, study, overrides or [])
            result = compare(study_arms(config, Path(folder)), config.baseline, rounds)
    for arm, step in result["steps"].items():
        ratio = step["ratio"]
        typer.echo(
            f"{arm}: {step['seconds']:.3f} s a step, {ratio['median']:.3f} "
            f"[{ratio['low']:.3f}, {ratio['high']:.3f}] of {result['baseline']}'s"
        )
    write_json(json_file, result)


if __name__ == "__main__":
    typer.run(main)
