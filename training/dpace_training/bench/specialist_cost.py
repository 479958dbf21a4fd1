"""Time of a drafter's forward pass in vLLM, with and without position specialists, in turn.

    python -m dpace_training.bench.specialist_cost [--json FILE] [--compiled]

One engine in this process hosts the bundled drafter and, in slots of their own, the same drafter
with fresh specialists of each kind, which draft what it drafts. Every round all of them serve the
same prompts, in another order; the ratio to the plain drafter is that of the median forward passes
of a round, so that a machine that slows down for a while slows all.
"""

import os
import shlex
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from dpace_serve.demo import bundle
from dpace_serve.demo.machine import this_machine
from dpace_serve.demo.prompts import read_prompts
from dpace_serve.drafter import checkpoint
from dpace_serve.drafter.specialists import Specialists
from dpace_serve.result_file import require_writable, write_json
from dpace_serve.vllm_engine.specialist_cost import ENVIRONMENT, compare

PLAIN = "plain"
ARMS = {"low_rank": Specialists("low_rank", 2, 16), "last_layer": Specialists("last_layer", 2)}
ROUNDS = 8


def write_fresh(folder: Path, specialists: Specialists) -> Path:
    """The bundled drafter with specialists that change nothing yet."""
    source = bundle.drafter_folder("dpace")
    config, plain = checkpoint.read_config(source), checkpoint.read_tensors(source)
    specialised = replace(config, specialists=specialists)
    tensors, last = {}, f"layers.{config.num_hidden_layers - 1}."
    for name, shape in checkpoint.tensor_shapes(specialised).items():
        # Adapters of zeros change nothing, and take no less time.
        zeros = torch.zeros(shape, dtype=torch.bfloat16)
        own = plain.get(name.replace("specialists.", last, 1), zeros)
        tensors[name] = own.expand(shape)
    checkpoint.write(folder, specialised, tensors)
    return folder


def main(
    rounds: Annotated[int, typer.Option(min=2, help="Answers of each arm.")] = ROUNDS,
    compiled: Annotated[bool, typer.Option(help="As served by default.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Time the forward pass of each drafter and print the ratios."""
    require_writable(json_file)
    os.environ.update(ENVIRONMENT)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        drafters = {PLAIN: bundle.drafter_folder("dpace")} | {
            arm: write_fresh(Path(root) / arm, section) for arm, section in ARMS.items()
        }
        prompts = read_prompts(bundle.prompts_file())
        texts = [prompt.text for prompt in prompts if not prompt.is_chat]
        target = bundle.target_folder()
        measured = compare(target, drafters, texts, eager=not compiled, rounds=rounds)
    result = {
        "machine": asdict(this_machine(Path("/proc/cpuinfo"))),
        "command": shlex.join(
            ["python", "-m", "dpace_training.bench.specialist_cost", *sys.argv[1:]]
        ),
        "compiled": compiled,
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
