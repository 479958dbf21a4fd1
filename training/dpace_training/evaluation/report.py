"""Results of an evaluation: one JSON object, and the same as a table for people."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from dpace_serve.acceptance.moments import (
    AcceptanceMoments,
    paired_tau_difference,
    paired_tau_ratio,
)
from dpace_training.evaluation.all_anchors import LeadingRuns
from dpace_training.evaluation.config import NumberFormat
from dpace_training.evaluation.held_out import ArmAcceptance

CONFIDENCE = 0.95
BARS = " ▁▂▃▄▅▆▇█"


def evaluation_result(
    target: str,
    block_size: int,
    arms: Sequence[ArmAcceptance],
    *,
    temperature: float,
    seed: int,
    dtype: NumberFormat,
) -> dict[str, Any]:
    """The result of `dpace eval`: acceptance of each drafter, and each pair on the same prompts.

    Intervals are 95 %, the prompt is their unit. Numbers that do not exist are null.

    Args:
        target: Name of the target.
        block_size: Anchor and draft positions of a block.
        arms: At least one drafter; all on the same prompts.
        temperature: With which the target answered; drafts are most likely tokens at any.
        seed: Of sampled answers.
        dtype: Number format in which target and drafters computed.
    """
    return {
        "target": target,
        "block_size": block_size,
        "temperature": temperature,
        "seed": seed if temperature else None,
        "dtype": dtype,
        "prompts": len(arms[0].pairs),
        "arms": [arm_record(arm) for arm in arms],
        "paired": [_pair_record(a, b) for b, a in itertools.combinations(arms, 2)],
    }


def arm_record(arm: ArmAcceptance) -> dict[str, Any]:
    """Acceptance of one drafter, over all prompts and by workload."""
    return {
        "name": arm.name,
        **_acceptance_record(arm),
        "workloads": {
            workload: _acceptance_record(arm.only(workload))
            for workload in sorted(set(arm.workloads))
        },
    }


def evaluation_table(result: dict[str, Any]) -> Table:
    """The result as a table: a row per drafter, then one per workload."""
    title = f"{result['target']}: {result['prompts']} prompts, {_manner(result)}"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("drafter", no_wrap=True)
    for heading in ("tau", "95 % interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("accepted", no_wrap=True)
    for heading in ("by position, %", "steps"):
        table.add_column(heading, justify="right", no_wrap=True)
    for arm in result["arms"]:
        table.add_row(arm["name"], *_cells(arm), style="bold")
        for workload, record in arm["workloads"].items():
            table.add_row(f"  {workload}", *_cells(record))
        table.add_section()
    lines = [line for pair in result["paired"] for line in _pair_lines(pair)]
    measured = [arm for arm in result["arms"] if "all_anchors" in arm]
    if measured:
        lines += ["", "After every token of the answers, all alike (not tau):"]
        lines += [_all_anchors_line(arm) for arm in measured]
    table.caption = "\n".join(lines)
    return table


def position_bars(rates: Sequence[float | None]) -> str:
    """One character per draft position, as high as the share of accepted drafts."""
    return "".join(BARS[round((rate or 0) * (len(BARS) - 1))] for rate in rates)


def _acceptance_record(arm: ArmAcceptance) -> dict[str, Any]:
    low, high = arm.moments.tau_interval(CONFIDENCE)
    return {
        "tau": _number(arm.moments.tau),
        "tau_low": _number(low),
        "tau_high": _number(high),
        "accepted_per_position": [_number(rate) for rate in arm.total.rates()],
        "steps": arm.moments.steps,
        "prompts": len(arm.pairs),
        **({} if arm.leading_runs is None else {"all_anchors": _all_anchors(arm.leading_runs)}),
    }


def _all_anchors(runs: Sequence[LeadingRuns]) -> dict[str, Any]:
    """Drafts after every token: a mean leading run, which is no tau, and rates by position.

    `conditional_per_position` is the share of right drafts among those behind right drafts only.
    """
    total = sum(runs[1:], start=runs[0])
    moments = AcceptanceMoments.from_pairs(run.pair for run in runs)
    low, high = moments.tau_interval(CONFIDENCE)
    return {
        "mean_leading_run": _number(moments.tau),
        "low": _number(low),
        "high": _number(high),
        "conditional_per_position": [
            _share(*counts) for counts in zip(total.right, total.reached, strict=True)
        ],
        "whole_blocks_right": _share(total.whole_blocks_right, total.whole_blocks),
        "anchors": total.anchors,
    }


def _pair_record(a: ArmAcceptance, b: ArmAcceptance) -> dict[str, Any]:
    # The ratio is a over b, so the base of the comparison goes first.
    ratio = paired_tau_ratio(b.pairs, a.pairs, CONFIDENCE)
    difference = paired_tau_difference(b.pairs, a.pairs, CONFIDENCE)
    return {
        "a": a.name,
        "b": b.name,
        "tau_ratio": _number(ratio.ratio),
        "low": _number(ratio.low),
        "high": _number(ratio.high),
        "tau_difference": _number(difference.difference),
        "difference_low": _number(difference.low),
        "difference_high": _number(difference.high),
        **_all_anchors_ratio(a, b),
    }


def _all_anchors_ratio(a: ArmAcceptance, b: ArmAcceptance) -> dict[str, Any]:
    if a.leading_runs is None or b.leading_runs is None:
        return {}
    of_a, of_b = ([run.pair for run in arm.leading_runs or ()] for arm in (a, b))
    ratio = paired_tau_ratio(of_b, of_a, CONFIDENCE)
    values = {"ratio": ratio.ratio, "low": ratio.low, "high": ratio.high}
    return {"all_anchors": {key: _number(value) for key, value in values.items()}}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _share(part: int, whole: int) -> float | None:
    return _number(part / whole) if whole else None


def _cells(record: dict[str, Any]) -> tuple[str, str, str, str, str]:
    rates = record["accepted_per_position"]
    return (
        _text(record["tau"]),
        _interval(record["tau_low"], record["tau_high"]),
        position_bars(rates),
        _percentages(rates),
        str(record["steps"]),
    )


def _pair_lines(pair: dict[str, Any]) -> tuple[str, str]:
    of_ratio = _interval(pair["low"], pair["high"])
    of_difference = _interval(pair["difference_low"], pair["difference_high"])
    return (
        f"tau of {pair['a']} / {pair['b']}: {_text(pair['tau_ratio'])} ({of_ratio})",
        f"tau of {pair['a']} - {pair['b']}: {_text(pair['tau_difference'])} ({of_difference})",
    )


def _percentages(rates: Sequence[float | None]) -> str:
    return " ".join(" -" if rate is None else f"{100 * rate:2.0f}" for rate in rates)


def _all_anchors_line(arm: dict[str, Any]) -> str:
    record = arm["all_anchors"]
    mean, interval = _text(record["mean_leading_run"]), _interval(record["low"], record["high"])
    rates = _percentages(record["conditional_per_position"])
    whole = _percentages([record["whole_blocks_right"]]).strip()
    return f"{arm['name']}: {mean} ({interval}); right after right {rates} %, whole {whole} %"


def _manner(result: dict[str, Any]) -> str:
    manner = f"temperature {result['temperature']:g}, seed {result['seed']}"
    return f"{manner if result['temperature'] else 'greedy'}, {result['dtype']}"


def _interval(low: float | None, high: float | None) -> str:
    return f"{_text(low)} .. {_text(high)}"


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
