"""Time of a drafter's forward pass in vLLM, with and without position specialists, in turn.

    python -m dpace_training.bench.specialist_cost [--json FILE] [--compiled]

One engine in this process hosts the bundled drafter and, in slots of their own, the same drafter
with fresh specialists of each kind, which draft what it drafts. Every round all of them serve the
same prompts, in another order; the ratio to the plain drafter is that of the median forward passes
of a round, so that a machine that slows down for a while slows all.
"""

import os
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from dpace_serve.demo import bundle
from dpace_serve.demo.machine import this_machine
from dpace_serve.demo.prompts import read_prompts
from dpace_serve.drafter import checkpoint
from dpace_serve.drafter.specialists import Specialists
from dpace_serve.result_file import require_writable, write_json
from dpace_training.drafter.model import BlockDrafter

PLAIN = "plain"
ARMS = {"low_rank": Specialists("low_rank", 2, 16), "last_layer": Specialists("last_layer", 2)}
BATCH_SIZES = (1, 8)
ROUNDS, MAX_TOKENS = 12, 96
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_PLUGINS": "dpace",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
}


def write_fresh(folder: Path, specialists: Specialists) -> Path:
    """The bundled drafter with specialists that change nothing yet."""
    source = bundle.drafter_folder("dpace")
    config, plain = checkpoint.read_config(source), checkpoint.read_tensors(source)
    tensors = BlockDrafter(replace(config, specialists=specialists)).bfloat16().state_dict()
    last = f"layers.{config.num_hidden_layers - 1}."
    for name, weight in tensors.items():
        own = name.replace("specialists.", last, 1)
        if own in plain:
            weight.copy_(plain[own])  # over all groups, where there are groups
    checkpoint.write(folder, replace(config, specialists=specialists), tensors)
    return folder


@contextmanager
def timed_forwards(proposer: Any) -> Iterator[list[tuple[int, float]]]:
    """Rows and seconds of every forward pass of a proposer's drafter meanwhile."""
    model, taken = proposer.model, list[tuple[int, float]]()
    forward = model.forward

    def measure(**inputs: Any) -> torch.Tensor:
        started = time.perf_counter()
        hidden: torch.Tensor = forward(**inputs)
        taken.append((len(hidden), time.perf_counter() - started))
        return hidden

    model.forward = measure
    try:
        yield taken
    finally:
        model.forward = forward


def compare(folders: Sequence[Path], *, eager: bool, rounds: int) -> dict[str, Any]:
    """Median milliseconds by arm and batch size, and the ratio to the plain drafter's."""
    from vllm import LLM

    from dpace_serve.vllm_engine.hosted_checkpoints import additional_config

    first = bundle.drafter_folder("dpace")
    engine = LLM(
        model=str(bundle.target_folder()),
        dtype="bfloat16",
        max_model_len=512,
        max_num_seqs=max(BATCH_SIZES),
        enforce_eager=eager,
        seed=0,
        additional_config=additional_config(folders),
        speculative_config={
            "method": "dflash",
            "model": str(first),
            "num_speculative_tokens": checkpoint.read_config(first).num_draft_tokens,
            "draft_sample_method": "greedy",
        },
    )
    core = engine.llm_engine.engine_core.engine_core
    proposer = core.model_executor.driver_worker.worker.model_runner.drafter
    slots = dict(zip((PLAIN, *ARMS), proposer.slots, strict=True))
    block = 1 + proposer.num_speculative_tokens
    return {
        arm: {
            "parameters": sum(weight.numel() for weight in _own(slot.model)),
            "weight_megabytes": sum(weight.nbytes for weight in _own(slot.model)) / 1e6,
        }
        for arm, slot in slots.items()
    } | {"forwards": [_rounds(engine, slots, size, block, rounds) for size in BATCH_SIZES]}


def _own(model: torch.nn.Module) -> list[torch.Tensor]:
    shared = ("embed_tokens", "lm_head", "mask_embedding")
    return [
        weight
        for name, weight in model.named_parameters()
        if not any(part in name for part in shared)
    ]


def _rounds(
    engine: Any, slots: dict[str, Any], batch_size: int, block: int, rounds: int
) -> dict[str, Any]:
    from vllm import SamplingParams

    texts = [prompt.text for prompt in read_prompts(bundle.prompts_file()) if not prompt.is_chat]
    seconds: dict[str, list[float]] = {arm: [] for arm in slots}
    order = list(slots)
    for index in range(rounds + 1):
        asked = [texts[(index * batch_size + row) % len(texts)] for row in range(batch_size)]
        for arm in random.Random(index).sample(order, len(order)):
            params = [
                SamplingParams(
                    temperature=0,
                    max_tokens=MAX_TOKENS,
                    ignore_eos=True,
                    extra_args={"dpace": [row, order.index(arm)]},
                )
                for row in range(batch_size)
            ]
            with timed_forwards(slots[arm]) as taken:
                engine.generate(asked, params, use_tqdm=False)
            if index:  # the first round of all allocates
                full = [time for rows, time in taken if rows == batch_size * block]
                seconds[arm].append(statistics.median(full))
    return {
        "batch_size": batch_size,
        "arms": {
            arm: {
                "milliseconds": 1000 * statistics.median(values),
                "ratio": _quartiles(
                    [own / plain for own, plain in zip(values, seconds[PLAIN], strict=True)]
                ),
            }
            for arm, values in seconds.items()
        },
    }


def _quartiles(ratios: Sequence[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(ratios, n=4)
    return {"median": median, "low": low, "high": high}


def main(
    rounds: Annotated[int, typer.Option(min=2, help="Answers of each arm.")] = ROUNDS,
    compiled: Annotated[bool, typer.Option(help="As served by default.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Time the forward pass of each drafter and print the ratios."""
    require_writable(json_file)
    os.environ.update(_ENVIRONMENT)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        folders = [write_fresh(Path(root) / arm, section) for arm, section in ARMS.items()]
        measured = compare(folders, eager=not compiled, rounds=rounds)
    result = {
        "machine": asdict(this_machine(Path("/proc/cpuinfo"))),
        "command": shlex.join(["python", "-m", __spec__.name, *sys.argv[1:]]),
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
