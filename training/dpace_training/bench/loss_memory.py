"""Peak memory of the objective, against the same objective with all logits at once.

    python -m dpace_training.bench.loss_memory [--json FILE]

Each way runs in a process of its own. What counts is the highest resident memory while loss and
gradient are computed, less what was resident before: hidden states and LM head are not counted.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from dpace_serve.config import Config
from dpace_serve.result_file import require_writable, write_json
from dpace_training.losses.config import LossConfig
from dpace_training.losses.objective import block_objective
from dpace_training.losses.weighting import dpace_weights

Way = Literal["chunked", "materialised"]
WAYS: tuple[Way, ...] = ("chunked", "materialised")
# Not __name__, which is "__main__" where this is run as a command.
MODULE = "dpace_training.bench.loss_memory"
LOSS = LossConfig(recipe="dpace")


class Size(Config):
    """How much there is to compute."""

    blocks: int
    """Blocks, one per anchor."""
    positions: int
    """Draft positions of a block."""
    hidden: int
    """Width of the hidden states."""
    vocab: int
    """Size of the vocabulary."""


def compare(size: Size) -> dict[str, Any]:
    """Peak bytes of both ways, their ratio, and how far the gradients are apart."""
    peaks: dict[Way, int] = {}
    gradients: dict[Way, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            file = Path(folder) / f"{way}.safetensors"
            command = [sys.executable, "-m", MODULE, "--only", way, "--gradient", str(file)]
            done = subprocess.run(  # noqa: S603 (this very module)
                [*command, "--size", size.model_dump_json()],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            peaks[way] = int(done.stdout)
            gradients[way] = load_file(file)["gradient"]
    difference = (gradients["chunked"] - gradients["materialised"]).abs().max()
    return {
        "size": size.model_dump(),
        "blocks_per_chunk": LOSS.blocks_per_chunk,
        "peak_bytes": peaks,
        "ratio": peaks["chunked"] / peaks["materialised"],
        "largest_difference": float(difference),
        "largest_gradient": float(gradients["materialised"].abs().max()),
    }


def measure(way: Way, size: Size) -> tuple[int, Tensor]:
    """Peak bytes of one way in this process, and its gradient."""
    # The first products of a process allocate what the libraries keep.
    _run(way, Size(blocks=2, positions=2, hidden=size.hidden, vocab=64))
    return _run(way, size)


def _run(way: Way, size: Size) -> tuple[int, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(size.blocks, size.positions, size.hidden, requires_grad=True)
    head = torch.randn(size.vocab, size.hidden) / size.hidden**0.5
    labels = torch.randint(size.vocab, (size.blocks, size.positions))
    scale = torch.full((size.blocks,), 1 / size.blocks)
    before = _resident_bytes("VmRSS")
    _forget_peak()
    if way == "chunked":
        supervised = torch.ones_like(labels, dtype=torch.bool)
        loss, _ = block_objective(hidden, head, labels, supervised, scale, LOSS)
    else:
        loss = _materialised(hidden, head, labels, scale)
    torch.autograd.backward(loss)
    peak = _resident_bytes("VmHWM") - before
    if hidden.grad is None:
        raise RuntimeError("the loss must have a gradient")
    return peak, hidden.grad


def _materialised(hidden: Tensor, head: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """D-PACE as one writes it down first."""
    logits = hidden @ head.T
    losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    losses = losses.view(labels.shape)
    weights = dpace_weights(
        torch.exp(-losses.detach()),
        torch.ones_like(labels, dtype=torch.bool),
        alpha=LOSS.alpha,
        variant=LOSS.variant,
    )
    return ((weights * losses).sum(dim=-1) * scale).sum()


def _resident_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}; this benchmark needs Linux")


def _forget_peak() -> None:
    # 5 sets the peak back to what is resident now: proc(5), clear_refs.
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def main(
    size: Annotated[str, typer.Option(help="JSON object of the size.")] = (
        '{"blocks": 512, "positions": 15, "hidden": 1024, "vocab": 151936}'
    ),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
    only: Annotated[str | None, typer.Option(help="One way, in this process.")] = None,
    gradient: Annotated[
        Path | None, typer.Option(help="Write the gradient of --only here.")
    ] = None,
) -> None:
    """Measure both ways and print their ratio."""
    measured = Size.model_validate_json(size)
    if only is not None and gradient is not None:
        peak, found = measure("chunked" if only == "chunked" else "materialised", measured)
        save_file({"gradient": found}, gradient)
        typer.echo(peak)
        return
    require_writable(json_file)
    result = compare(measured)
    for way in WAYS:
        typer.echo(f"{way}: {result['peak_bytes'][way] / 1e6:.0f} MB")
    typer.echo(
        f"chunked / materialised: {result['ratio']:.3f}; gradients differ by at most "
        f"{result['largest_difference']:.1e}, the largest is {result['largest_gradient']:.1e}"
    )
    write_json(json_file, result)


if __name__ == "__main__":
    typer.run(main)
