"""Time of a D-PACE step against the steps of SpecForge and speculators.

    python -m dpace_training.bench.peers --environments build/peers [--json FILE]

`make bench-peers` makes the environments. Each attention that a peer offers takes part, in float32
and in bfloat16; the fastest one stands for the peer. One thread; the same drafter, documents,
anchors and optimizer on all sides; ratios are taken round by round, so that a machine that slows
down for a while slows all. Where others use the machine, processor seconds tell more than seconds.
Sizes: `size.StepSize`.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from dpace_serve.demo.machine import this_machine
from dpace_serve.errors import ConfigError
from dpace_serve.result_file import require_writable, write_json
from dpace_training.bench.peers.compare import WARM_UP_STEPS, compare
from dpace_training.bench.peers.size import PRECISIONS, Precision, StepSize
from dpace_training.progress import progress_bar

PACKAGE = "dpace_training.bench.peers"
# What each peer's configuration offers on one device.
ATTENTIONS = {
    "specforge": ("sdpa", "sdpa-128", "eager", "flex_attention"),
    "speculators": ("sdpa", "eager", "simple_flex_attention"),
}
OWN_ATTENTION = "two_part"
ROUNDS = 20


def main(
    environments: Annotated[Path, typer.Option(help="Folder of a virtual environment per peer.")],
    rounds: Annotated[int, typer.Option(min=2, help="Counted steps of each side.")] = ROUNDS,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Time a step of each side and print how many times faster ours is."""
    require_writable(json_file)
    result: dict[str, Any] = {
        "machine": asdict(this_machine(Path("/proc/cpuinfo"))),
        "threads": 1,
        "rounds": rounds,
        "size": asdict(StepSize()),
        "precisions": {},
    }
    with progress_bar("rounds", len(PRECISIONS) * (rounds + WARM_UP_STEPS)) as advance:
        for precision in PRECISIONS:
            result["precisions"][precision] = compare(
                _command(sys.executable, "own_step", OWN_ATTENTION, precision),
                _peer_commands(environments, precision),
                rounds=rounds,
                advance=lambda: advance(1, ""),
            )
    for precision, measured in result["precisions"].items():
        _print(precision, measured)
    write_json(json_file, result)


def _peer_commands(environments: Path, precision: Precision) -> dict[str, list[str]]:
    commands = {}
    for peer, attentions in ATTENTIONS.items():
        python = environments / peer / "bin" / "python"
        if not python.is_file():
            raise ConfigError(f"{python}: must be the peer's interpreter. Run make bench-peers.")
        for attention in attentions:
            command = _command(str(python), f"{peer}_step", attention, precision)
            commands[f"{peer} {attention}"] = command
    return commands


def _command(python: str, module: str, attention: str, precision: Precision) -> list[str]:
    options = ["--attention", attention, "--precision", precision]
    return [python, "-m", f"{PACKAGE}.{module}", *options]


def _print(precision: str, measured: dict[str, Any]) -> None:
    own = measured["own"]
    typer.echo(f"{precision}: ours {own['seconds']['median']:.3f} s a step")
    finished = {}
    for name, side in measured["peers"].items():
        if "stopped_by" in side:
            typer.echo(f"  {name}: did not run: {side['stopped_by']}")
            continue
        ratio = side["ratio"]
        processor_ratio = side["processor_ratio"]["median"]
        finished[name] = (ratio["median"], processor_ratio)
        typer.echo(
            f"  {name}: {side['seconds']['median']:.3f} s a step, {ratio['median']:.2f} "
            f"[{ratio['low']:.2f}, {ratio['high']:.2f}] times ours, {processor_ratio:.2f} times "
            "our processor seconds"
        )
    for peer in ATTENTIONS:
        ratios = [ratio for name, ratio in finished.items() if name.split()[0] == peer]
        if ratios:
            by_clock, by_processor = (min(column) for column in zip(*ratios, strict=True))
            typer.echo(
                f"  {peer} at its fastest: {by_clock:.2f} times our seconds, "
                f"{by_processor:.2f} times our processor seconds"
            )


if __name__ == "__main__":
    typer.run(main)
