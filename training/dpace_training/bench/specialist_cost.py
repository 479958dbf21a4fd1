"""Time of a drafter's forward pass in vLLM, with and without position specialists, in turn.

    python -m dpace_training.bench.specialist_cost [--json FILE] [--compiled] [--size 4b]

One engine in this process hosts a plain drafter and, in slots of their own, the same drafter with
fresh specialists of each kind, which draft what it drafts, and once more as it is: what that one
differs by is noise. Every round all of them serve the same prompts, in another order; the ratio to
the plain drafter is that of the median forward passes of a round, so that a machine that slows down
for a while slows all.
"""

import os
import shlex
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from dpace_serve.demo import bundle
from dpace_serve.demo.machine import this_machine
from dpace_serve.demo.prompts import read_prompts
from dpace_serve.drafter import checkpoint
from dpace_serve.drafter.specialists import Specialists
from dpace_serve.result_file import require_writable, write_json
from dpace_serve.vllm_engine.specialist_cost import BATCH_SIZES, ENVIRONMENT, compare
from dpace_training.bench import random_pair
from dpace_training.drafter.warm_start import weights_for_groups
from dpace_training.progress import progress_bar

PLAIN, PLAIN_AGAIN = "plain", "plain_again"
ARMS = {"low_rank": Specialists("low_rank", 2, 16), "last_layer": Specialists("last_layer", 2)}
ROUNDS = 8

Size = Literal["bundled", "4b"]


@dataclass(frozen=True, slots=True)
class Pair:
    """What is measured.

    Attributes:
        target: Folder of the target.
        drafter: Folder of the plain drafter.
        max_tokens: Tokens of an answer.
    """

    target: Path
    drafter: Path
    max_tokens: int


def pair_of(size: Size, root: Path) -> Pair:
    """The pair of a size; what is not there yet is written below `root`."""
    if size == "bundled":
        return Pair(bundle.target_folder(), bundle.drafter_folder("dpace"), max_tokens=96)
    target = random_pair.write_target(root / "target")
    return Pair(target, random_pair.write_drafter(root / PLAIN), max_tokens=8)


def write_fresh(folder: Path, source: Path, specialists: Specialists) -> Path:
    """A plain drafter with specialists that change nothing yet."""
    config = replace(checkpoint.read_config(source), specialists=specialists)
    # Adapters of zeros change nothing, and take no less time.
    zeros = {
        name: torch.zeros(shape, dtype=torch.bfloat16)
        for name, shape in checkpoint.tensor_shapes(config).items()
    }
    copied = weights_for_groups(checkpoint.read_tensors(source), config)
    checkpoint.write(folder, config, zeros | copied)
    return folder


def write_arms(plain: Path, root: Path) -> dict[str, Path]:
    """Folders of the drafters that are compared, the plain one first."""
    again = Path(shutil.copytree(plain, root / PLAIN_AGAIN))
    return {PLAIN: plain, PLAIN_AGAIN: again} | {
        arm: write_fresh(root / arm, plain, section) for arm, section in ARMS.items()
    }


def main(
    rounds: Annotated[int, typer.Option(min=2, help="Answers of each arm.")] = ROUNDS,
    compiled: Annotated[bool, typer.Option(help="As served by default.")] = False,
    size: Annotated[
        Size, typer.Option(help="The bundled models, or random ones as large as public ones.")
    ] = "bundled",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Time the forward pass of each drafter and print the ratios."""
    require_writable(json_file)
    os.environ.update(ENVIRONMENT)
    torch.set_num_threads(1)
    texts = [prompt.text for prompt in read_prompts(bundle.prompts_file()) if not prompt.is_chat]
    num_answers = (len(ARMS) + 2) * len(BATCH_SIZES) * (rounds + 1)
    with (
        tempfile.TemporaryDirectory() as root,
        progress_bar("answers", num_answers) as advance,
    ):
        pair = pair_of(size, Path(root))
        measured = compare(
            pair.target,
            write_arms(pair.drafter, Path(root)),
            texts,
            max_tokens=pair.max_tokens,
            eager=not compiled,
            rounds=rounds,
            on_answer=lambda: advance(1, ""),
        )
    result = {
        "machine": asdict(this_machine(Path("/proc/cpuinfo"))),
        "command": shlex.join(
            ["python", "-m", "dpace_training.bench.specialist_cost", *sys.argv[1:]]
        ),
        "compiled": compiled,
        "size": size,
        "rounds": rounds,
        **measured,
    }
    for row in result["forwards"]:
        for arm, forward in row["arms"].items():
            ratio = forward["ratio"]
            typer.echo(
                f"batch {row['batch_size']}, {arm}: {forward['milliseconds']:.2f} ms, "
                f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}] of {PLAIN}"
            )
    write_json(json_file, result)


if __name__ == "__main__":
    typer.run(main)
