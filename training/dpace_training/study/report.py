"""The result of a study for people: a table per held-out set."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from dpace_training.evaluation.report import position_bars


def study_table(result: dict[str, Any], held_out: str) -> Table:
    """One row per arm on one held-out set."""
    prompts = result["arms"][0]["sets"][held_out]["prompts"]
    title = f"{held_out}: {prompts} prompts, seeds {', '.join(map(str, result['seeds']))}"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("objective", no_wrap=True)
    for heading in ("tau", "by seed", f"/ {result['baseline']}", "95 % over seeds", "over prompts"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("accepted", no_wrap=True)
    for arm in result["arms"]:
        record = arm["sets"][held_out]
        ratio = record["ratio"]
        table.add_row(
            arm["name"],
            f"{record['tau']:.3f}",
            " ".join(f"{tau:.2f}" for tau in record["tau_by_seed"]),
            f"{ratio['tau_ratio']:.3f}",
            _interval(ratio["across_seeds"]),
            _interval(ratio["across_prompts"]),
            position_bars(record["accepted_per_position"]),
        )
    return table


def _interval(bounds: list[float | None]) -> str:
    low, high = bounds
    return "-" if low is None or high is None else f"{low:.3f} .. {high:.3f}"
