"""The measurements of live drafters for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from dpace_serve.demo.chunk_gaps import GapFigures
from dpace_serve.demo.swap_figures import Spread, SwapFigures
from dpace_serve.demo.truth_figures import ArmFigures, TruthFigures

MEGABYTE = 10**6


def swap_table(figures: SwapFigures) -> Table:
    """Swaps under load, one fact a row."""
    table = _table("swaps under load", "")
    rows = {
        "swaps, each of another drafter": str(figures.num_swaps),
        "requests beside them": str(figures.num_requests),
        "failed": str(figures.num_failed),
        "other tokens than before any swap": str(figures.num_different),
        "the same without swaps": (
            f"{figures.num_control_different} of {figures.num_control_requests}"
        ),
        "swaps refused with 409": str(figures.num_busy),
        "resident memory": (
            f"{figures.resident_before_bytes / MEGABYTE:.0f} MB, at the end "
            f"{figures.resident_after_bytes / MEGABYTE:.0f} MB ({figures.resident_ratio - 1:+.1%})"
        ),
        "a swap": _seconds(figures.total_seconds),
        "  loading": _seconds(figures.load_seconds),
        "  waiting for its slot": _seconds(figures.wait_seconds),
        "  checking files, idle server": _seconds(figures.check_seconds),
        "gap of chunks, while loading": _gaps(figures.gaps_loading),
        "  between loads, for as long": _gaps(figures.gaps_as_long),
        "  all other gaps": _gaps(figures.gaps_otherwise),
        "  without swaps": _gaps(figures.gaps_control),
        "client": (
            f"{figures.client_cpu_share:.0%} of a core, late by "
            f"{figures.client_lateness_p99_ms:.0f} ms (p99)"
        ),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def cost_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Step times with a shadow; the rows are those of `shadow_cost`."""
    table = _table("batch", "shadowed", "step ms", "with it", "ratio [range]", "CPU [range]")
    for row in rows:
        table.add_row(
            str(row["batch_size"]),
            f"{row['shadow_share']:.0%}",
            f"{row['plain_ms']:.1f}",
            f"{row['shadowed_ms']:.1f}",
            f"{row['ratio']:.2f} \\[{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]",
            f"{row['cpu_ratio']:.2f} \\[{row['cpu_ratio_low']:.2f}, {row['cpu_ratio_high']:.2f}]",
        )
    return table


def truth_table(rows: Sequence[TruthFigures]) -> Table:
    """Acceptance in the shadow and alone."""
    table = _table("drafter", "champion", "T", "tau in shadow", "tau alone", "ratio")
    for row in rows:
        table.add_row(
            row.drafter,
            row.champion,
            f"{row.temperature:g}",
            _tau(row.shadow),
            _tau(row.alone),
            f"{row.ratio.ratio:.3f} \\[{row.ratio.low:.3f}, {row.ratio.high:.3f}]",
        )
    return table


def rates_table(rows: Sequence[TruthFigures]) -> Table:
    """Acceptance by position in the shadow and alone, in percent."""
    num_positions = len(rows[0].shadow.rates)
    table = _table("drafter", "T", "arm", *map(str, range(1, num_positions + 1)))
    for row in rows:
        for name, arm in (("shadow", row.shadow), ("alone", row.alone)):
            rates = (f"{100 * rate:.1f}" for rate in arm.rates)
            table.add_row(row.drafter, f"{row.temperature:g}", name, *rates)
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def _seconds(spread: Spread) -> str:
    return f"{spread.median:.3f} s, at most {spread.high:.3f} s"


def _gaps(figures: GapFigures) -> str:
    if figures.p50_ms is None:
        return "none"
    return (
        f"p50 {figures.p50_ms:.0f}, p99 {figures.p99_ms:.0f}, longest "
        f"{figures.longest_ms:.0f} ms ({figures.num_gaps})"
    )


def _tau(arm: ArmFigures) -> str:
    return f"{arm.tau:.2f} ± {(arm.tau_high - arm.tau_low) / 2:.2f}"  # the interval is symmetric
