"""The result of a study for people: a table per held-out set, one for documents, figures."""

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from dpace_training.evaluation.report import position_bars
from dpace_training.plots.figure import NumberTable
from dpace_training.plots.output import write_page, write_pngs
from dpace_training.plots.page import html_page
from dpace_training.study.figures import by_ratio, study_figures


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


def study_rows(result: dict[str, Any]) -> str:
    """The result as a Markdown table: ratios to the baseline, a column per held-out set."""
    sets = list(result["arms"][0]["sets"])
    rows = [
        f"| tau / tau of {result['baseline']} | "
        + " | ".join(name.replace("_", " ") for name in sets)
        + " |",
        "|---" * (len(sets) + 1) + "|",
    ]
    for arm in by_ratio(result):
        cells = (_ratio_cell(arm["sets"][name]["ratio"]) for name in sets)
        rows.append(f"| {arm['name']} | " + " | ".join(cells) + " |")
    baseline = next(arm for arm in result["arms"] if arm["name"] == result["baseline"])
    of_baseline = "; ".join(
        f"{name.replace('_', ' ')} {baseline['sets'][name]['tau']:.2f} "
        f"({baseline['sets'][name]['prompts']} prompts)"
        for name in sets
    )
    rows += [
        "",
        f"Geometric mean over the seeds {', '.join(map(str, result['seeds']))} "
        f"[{100 * result['confidence']:.0f} % over seeds]; bold where this interval and the one",
        f"over prompts both exclude 1. Tau of {result['baseline']}: {of_baseline}.",
    ]
    return "\n".join(rows)


def write_study_figures(result: dict[str, Any], output: Path, json_file: Path | None) -> Path:
    """Write `report.html` and `plots/*.png` into the study's folder.

    Args:
        result: The result of the study.
        output: Folder of the study.
        json_file: File of the result, to put the same PNG files beside under its name; or none.

    Returns:
        The page.

    Raises:
        ConfigError: If a file cannot be written.
    """
    figures = study_figures(result)
    write_pngs(figures, output / "plots", prefix="")
    if json_file is not None:
        write_pngs(figures, json_file.parent, prefix=f"{json_file.stem}-")
    objectives = tuple((arm["name"], arm["objective"]) for arm in result["arms"])
    page = html_page(
        f"Study on {result['target']}",
        f"{len(objectives)} objectives, seeds {', '.join(map(str, result['seeds']))}, block size "
        f"{result['block_size']}; baseline {result['baseline']}.",
        figures,
        [("Objectives", NumberTable(("name", "objective"), objectives))],
    )
    write_page(output / "report.html", page)
    return output / "report.html"


def _ratio_cell(ratio: dict[str, Any]) -> str:
    value = ratio["tau_ratio"]
    if value is None:
        return "-"
    low, high = ratio["across_seeds"]
    interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    text = f"{value:.3f}"
    is_clear = all(_excludes_one(ratio[kind]) for kind in ("across_seeds", "across_prompts"))
    return f"**{text}**{interval}" if is_clear else f"{text}{interval}"


def _excludes_one(bounds: list[float | None]) -> bool:
    low, high = bounds
    return low is not None and high is not None and not low <= 1 <= high


def _interval(bounds: list[float | None]) -> str:
    low, high = bounds
    return "-" if low is None or high is None else f"{low:.3f} .. {high:.3f}"
