"""The summary of a run for a terminal of 80 columns."""

from dataclasses import replace

from rich.console import Group as Blocks
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from dpace_loadtest import wording
from dpace_loadtest.acceptance_summary import PositionAcceptance
from dpace_loadtest.run_result import RunResult
from dpace_loadtest.summary import ArmAcceptance, LoadSummary

MAX_POSITIONS = 8
"""Draft positions shown; the page has all."""
NAME_WIDTH, COMPARED_WIDTH = 14, 38
"""Longest names shown whole, so that the numbers beside them fit into 80 columns."""


def terminal_summary(result: RunResult) -> RenderableType:
    """Verdict, latencies and throughput, acceptance, comparison, and what failed."""
    blocks: list[RenderableType] = [_headline(result), Text(""), _loads(result)]
    acceptance = _acceptance(result)
    if acceptance.row_count:
        blocks += [Text(""), acceptance]
    if result.comparisons:
        blocks += [Text(""), _comparisons(result)]
    notes = _notes(result)
    if notes:
        blocks += [Text(""), *notes]
    return Blocks(*blocks)


def _headline(result: RunResult) -> Text:
    facts, verdict = result.facts, result.verdict
    sign, colour = ("✓ good", "green") if verdict.exit_code == 0 else ("✗ not good", "red")
    loop = "open loop" if facts.mode == "open" else "CLOSED loop: waiting is hidden"
    # Names come from files and servers: Text reads no markup.
    return Text.assemble((sign, f"bold {colour}"), f"  {facts.name}, {loop}\n", verdict.reason)


def _loads(result: RunResult) -> Table:
    table = _table("arm", result.facts.load_unit, "ok", "TTFT p50", "p95", "TPOT p50", "p95 ms")
    table.add_column("tok/s", justify="right")
    table.add_column("good", justify="right")
    for one in result.summaries:
        total = one.total
        ttft, tpot = total.latency.ttft_from_schedule, total.latency.tpot
        table.add_row(
            Text(one.arm),
            f"{one.load:g}",
            f"{total.outcomes['ok']}/{total.num_requests}",
            wording.milliseconds(ttft.p50),
            wording.milliseconds(ttft.p95),
            wording.milliseconds(tpot.p50),
            wording.milliseconds(tpot.p95),
            wording.number(total.tokens_per_second),
            wording.UNKNOWN if total.goodput is None else f"{total.goodput.share:.0%}",
        )
    return table


def _acceptance(result: RunResult) -> Table:
    over_all = [one for one in result.acceptances if one.workload is None]
    num_positions = max((len(d.positions) for one in over_all for d in one.acceptance), default=0)
    shown = min(num_positions, MAX_POSITIONS)
    table = _table("arm", "drafter", "tau", *(str(number) for number in range(1, shown + 1)))
    for one in over_all:
        for drafter in one.acceptance:
            table.add_row(
                Text(one.arm),
                Text(wording.drafter_name(drafter)),
                wording.bounded(drafter.tau),
                *(_rate(at) for at in drafter.positions[:shown]),
            )
    return table


def _rate(at: PositionAcceptance) -> str:
    # Without the zero before the point: eight of them beside each other must fit.
    return wording.UNKNOWN if at.rate is None else f"{at.rate.value:.2f}".removeprefix("0")


def _comparisons(result: RunResult) -> Table:
    table = _table(
        "against " + result.baseline,
        "load",
        "times as good",
        "prompts",
        "",
        name_width=COMPARED_WIDTH,
    )
    for one in result.headline_comparisons():
        if one.workload is None:
            table.add_row(
                Text(f"{one.arm}, {wording.METRIC_NAMES[one.metric]}"),
                f"{one.load:g}",
                wording.ratio(one),
                f"{one.num_units}" if one.design == "paired" else f"{one.num_units} unpaired",
                wording.finding(one),
            )
    return table


def _notes(result: RunResult) -> list[Text]:
    notes = [
        f"{arm}: {wording.knee_in_words(knee)}"
        for arm, knee in result.knees.items()
        if knee.load is not None
    ]
    for one in result.summaries:
        notes += _notes_on(one)
    for arm in result.acceptances:
        if arm.workload is None:
            notes += _lost_records(arm)
    return [Text(note) for note in notes]


def _notes_on(one: LoadSummary) -> list[str]:
    place, notes = f"{one.arm} at {one.load:g}", []
    failed = {name: n for name, n in one.total.outcomes.items() if n and name != "ok"}
    if failed:
        notes.append(f"{place}: " + ", ".join(f"{n} {name}" for name, n in failed.items()))
    if one.is_saturated:
        lag = wording.milliseconds(one.send_lag.p99)
        notes.append(f"{place}: the generator fell behind, p99 of its lag {lag} ms")
    if one.steadiness.is_steady is False:
        notes.append(f"{place}: not settled, the second half differs from the first")
    return notes


def _lost_records(arm: ArmAcceptance) -> list[str]:
    """Requests that should have had a record in the statistics and have none."""
    known = {"no_drafter", "no_service"}  # of a whole arm, and said by its place in the tables
    counts = replace(
        arm.joined, unjoined={r: n for r, n in arm.joined.unjoined.items() if r not in known}
    )
    lost = wording.lost_records(counts)
    return [f"{arm.arm}: without acceptance: {lost}"] if lost else []


def _table(first: str, *others: str, name_width: int = NAME_WIDTH) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    table.add_column(Text(first), overflow="ellipsis", no_wrap=True, max_width=name_width)
    for column in others:
        is_name = column == "drafter"
        table.add_column(
            Text(column),
            justify="left" if is_name else "right",
            overflow="ellipsis",
            no_wrap=True,
            max_width=name_width if is_name else None,
        )
    return table
