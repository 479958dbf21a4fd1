"""Result tables in the README files, written from the committed results and from nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpace_training.bench.report import (
    loss_memory_line,
    peer_rows,
    specialist_cost_rows,
    step_time_rows,
)
from dpace_training.demo.live_tables import cost_rows, schedule_rows, swap_rows, truth_rows
from dpace_training.study.orderings import ordering_rows
from dpace_training.study.report import study_rows
from dpace_training.study.specialists import specialist_position_rows, specialist_rows

Result = dict[str, Any]
RESULTS = Path("training/results")


def update_tables(root: Path) -> list[Path]:
    """Rewrite every table whose result is there; returns the files that changed.

    Args:
        root: The repository.
    """
    changed = []
    for document, tables in TABLES.items():
        path = root / document
        old = new = path.read_text(encoding="utf-8")
        for name, (result, render) in tables.items():
            source = root / RESULTS / result
            if source.exists():
                values = json.loads(source.read_text(encoding="utf-8"))
                new = _replaced(new, name, render(values), document)
        if new != old:
            path.write_text(new, encoding="utf-8")
            changed.append(path)
    return changed


def demo_table(result: Result) -> str:
    """Speed and acceptance of `dpace demo`, one row per arm."""
    rows = ["| | tau [95 %] | tokens/s | speed-up |", "|---|---|---|---|"]
    for arm in result["arms"]:
        tau = _tau(arm) if "tau" in arm else "-"
        speedup = f"{arm['speedup']:.2f} x" if "speedup" in arm else "1"
        rows.append(f"| {arm['name']} | {tau} | {arm['tokens_per_second']:.0f} | {speedup} |")
    machine = result["machine"]
    identical = "identical token for token" if result["lossless"] else "NOT identical"
    rows += [
        "",
        f"`make demo`: {result['prompts']} held-out prompts one at a time, greedy, float32, block "
        f"size {result['block_size']}, on {machine['cpu']}, {machine['num_cores']} cores; answers "
        f"{identical} to those without speculation.",
    ]
    return "\n".join(rows)


def speed_rows(result: Result) -> str:
    """Medians of `dpace bench`, one row per mode, batch size and arm."""
    rows = [
        "| mode | batch | | tokens/s | speed-up, median [range] | tau | speed-up / tau |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        speedup = f"{row['speedup']:.2f} [{row['speedup_low']:.2f}, {row['speedup_high']:.2f}]"
        tau = "-" if row["tau"] is None else f"{row['tau']:.2f}"
        share = row["speedup_over_tau"]
        rows.append(
            f"| {row['mode']} | {row['batch_size']} | {row['arm']} | "
            f"{row['tokens_per_second']:.0f} | {speedup} | {tau} | "
            f"{'-' if share is None else f'{share:.2f}'} |"
        )
    machine = result["machine"]
    rows += ["", f"`make bench` on {machine['cpu']}, {machine['num_cores']} cores."]
    return "\n".join(rows)


def target_table(result: Result) -> str:
    """How many held-out questions the target answers right, and its perplexity."""
    families = result["right"]
    rows = [
        "| " + " | ".join(["right answers", *families, "all"]) + " |",
        "|---" * (len(families) + 2) + "|",
        "| held-out questions, greedy | "
        + " | ".join(f"{100 * share:.1f} %" for share in families.values())
        + f" | **{100 * result['right_overall']:.1f} %** |",
        "",
        f"{sum(result['questions'].values())} questions. Held-out library text: perplexity "
        f"{result['library_perplexity']:.1f} a token, {result['library_bits_per_byte']:.2f} bits a "
        f"byte (Python {result['python']}).",
    ]
    return "\n".join(rows)


def drafter_table(result: Result) -> str:
    """Tau of each drafter, over all held-out prompts and by workload."""
    workloads = list(result["arms"][0]["workloads"])
    rows = [
        "| tau | " + " | ".join(["all [95 %]", *workloads]) + " |",
        "|---" * (len(workloads) + 2) + "|",
    ]
    for arm in result["arms"]:
        by_workload = (f"{arm['workloads'][name]['tau']:.2f}" for name in workloads)
        rows.append(f"| {arm['name']} | **{_tau(arm)}** | " + " | ".join(by_workload) + " |")
    rows += ["", f"{result['prompts']} held-out prompts, greedy, float32. Paired by prompt:"]
    for pair in result["paired"]:
        rows.append(
            f"{pair['a']} / {pair['b']} {pair['tau_ratio']:.3f} "
            f"[{pair['low']:.3f}, {pair['high']:.3f}];"
        )
    rows[-1] = rows[-1].rstrip(";") + "."
    return "\n".join(rows)


TABLES: dict[str, dict[str, tuple[str, Callable[[Result], str]]]] = {
    "README.md": {"demo": ("demo-run.json", demo_table)},
    "dpace_serve/README.md": {
        "truth": ("live-truth.json", truth_rows),
        "cost": ("live-cost.json", cost_rows),
        "swaps": ("live-swaps.json", swap_rows),
        "schedule": ("live-schedule.json", schedule_rows),
    },
    "training/README.md": {
        "target": ("demo-target.json", target_table),
        "drafters": ("demo-drafters.json", drafter_table),
        "speed": ("demo-speed.json", speed_rows),
        "reproduce": ("reproduce.json", study_rows),
        "orderings": ("reproduce.json", ordering_rows),
        "converged": ("converged.json", study_rows),
        "equal-time": ("equal-time.json", study_rows),
        "step-time": ("step-time.json", step_time_rows),
        "specialists": ("specialists.json", specialist_rows),
        "specialists-positions": ("specialists.json", specialist_position_rows),
        "specialists-step-time": ("specialists-step-time.json", step_time_rows),
        "specialists-cost": ("specialists-cost.json", specialist_cost_rows),
        "specialists-cost-compiled": ("specialists-cost-compiled.json", specialist_cost_rows),
        "specialists-cost-4b": ("specialists-cost-4b.json", specialist_cost_rows),
        "peers": ("peers.json", peer_rows),
        "loss-memory": ("loss-memory.json", loss_memory_line),
    },
}


def _tau(record: Result) -> str:
    return f"{record['tau']:.2f} [{record['tau_low']:.2f}, {record['tau_high']:.2f}]"


def _replaced(text: str, name: str, table: str, document: str) -> str:
    start, end = f"<!-- {name}: from training/results -->\n", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"{document} must hold {start.strip()} and {end.strip()} once each")
    head, _, rest = text.partition(start)
    _, _, tail = rest.partition(end)
    return f"{head}{start}{table}\n{end}{tail}"
