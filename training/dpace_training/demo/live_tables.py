"""Rows of the tables on serving: shadows, swaps under load, and schedules of draft lengths."""

from collections.abc import Mapping
from typing import Any

Result = dict[str, Any]
_MEGABYTE = 10**6
_GAPS = {
    "gaps_loading": "while a drafter was loaded",
    "gaps_as_long": "between loads, for as long",
    "gaps_otherwise": "all others beside the swaps",
    "gaps_control": "without swaps",
}


def truth_rows(result: Result) -> str:
    """Acceptance in the shadow against acceptance alone, a row for each drafter and temperature."""
    truth = result["truth"]
    rows = [
        "| drafter | champion | temperature | tau in the shadow | tau served alone | ratio, paired "
        "|",
        "|---|---|---|---|---|---|",
    ]
    for row in truth["rows"]:
        ratio = row["ratio"]
        rows.append(
            f"| {row['drafter']} | {row['champion']} | {row['temperature']:g} | "
            f"{_tau(row['shadow'])} | {_tau(row['alone'])} | "
            f"{ratio['ratio']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}] |"
        )
    furthest = max(abs(row["ratio"]["ratio"] - 1) for row in truth["rows"])
    rows += [
        "",
        f"{truth['rows'][0]['num_prompts']} held-out prompts, {_percent(truth)} intervals with the "
        f"prompt as unit (`{_command('truth')}`). The champion's anchors moved tau by "
        f"{100 * furthest:.1f} % at most.",
    ]
    return "\n".join(rows)


def cost_rows(result: Result) -> str:
    """Time of a step with a shadow over that without one."""
    rows = [
        "| batch | shadowed | time of a step, ratio to none [range of rounds] |",
        "|---|---|---|",
    ]
    for row in result["cost"]["rows"]:
        share = "all" if row["shadow_share"] == 1 else f"{row['shadow_share']:.0%}"
        rows.append(
            f"| {row['batch_size']} | {share} | "
            f"{row['ratio']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}] |"
        )
    rows += ["", f"(`{_command('cost')}`; float32, eager, {_machine(result)}.)"]
    return "\n".join(rows)


def swap_rows(result: Result) -> str:
    """Swaps under load: what failed, memory, and gaps between the chunks of a stream."""
    swaps = result["swaps"]
    before, after = swaps["resident_before_bytes"], swaps["resident_after_bytes"]
    load, total = swaps["load_seconds"], swaps["total_seconds"]
    rows = [
        f"{swaps['num_swaps']} swaps, each to a drafter that had to be loaded, beside "
        f"{swaps['settings']['streams']} greedy streams (`{_command('swaps')}`; "
        f"{_machine(result)}): of {swaps['num_requests']:,} requests "
        f"{swaps['num_failed'] or 'none'} failed, and {swaps['num_different'] or 'none'} had other "
        f"tokens than before any swap. Resident memory went from {before / _MEGABYTE:,.0f} to "
        f"{after / _MEGABYTE:,.0f} MB, with oneDNN's cache and the KV cache kept small so that no "
        "leak could hide behind them. Loading stopped the engine for "
        f"{1e3 * load['median']:.0f} ms in the median, {1e3 * load['high']:.0f} ms at most; "
        f"a swap took {total['median']:.1f} s, nearly all of it waiting for the former drafter's "
        "requests to end.",
        "",
        "| gap between chunks of a stream | p50 | p99 | longest | samples |",
        "|---|---|---|---|---|",
    ]
    for name, words in _GAPS.items():
        rows.append(f"| {words} | {_gaps(swaps[name])} |")
    return "\n".join(rows)


def schedule_rows(result: Result) -> str:
    """The schedule of `dpace tune` against the best fixed draft length."""
    rows = [
        "| batch | schedule, tokens/s | best fixed length | its tokens/s | ratio [range] |",
        "|---|---|---|---|---|",
    ]
    for batch in result["verified"]:
        best = batch["best_fixed"]
        rows.append(
            f"| {batch['batch_size']} | {batch['tokens_per_second']:.0f} | {best} | "
            f"{batch['fixed'][str(best)]:.0f} | "
            f"{batch['ratio']:.2f} [{batch['low']:.2f}, {batch['high']:.2f}] |"
        )
    return "\n".join(rows)


def _command(part: str) -> str:
    return f"python -m dpace_serve.demo.live_bench --part {part}"


def _machine(result: Result) -> str:
    machine = result["machine"]
    return f"{machine['cpu']}, {machine['num_cores']} cores"


def _percent(truth: Mapping[str, Any]) -> str:
    return f"{100 * truth['settings']['confidence']:g} %"


def _tau(arm: Mapping[str, Any]) -> str:
    return f"{arm['tau']:.2f} [{arm['tau_low']:.2f}, {arm['tau_high']:.2f}]"


def _gaps(figures: Mapping[str, Any]) -> str:
    times = " | ".join(f"{figures[key]:.0f} ms" for key in ("p50_ms", "p99_ms", "longest_ms"))
    return f"{times} | {figures['num_gaps']:,}"
