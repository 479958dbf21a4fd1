"""The tables of the page, as text cells; nothing here is HTML yet."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from dpace_loadtest import wording
from dpace_loadtest.comparison_of_arms import Comparison
from dpace_loadtest.run_result import RunResult
from dpace_loadtest.summary import Group, LoadSummary

Tone = Literal["plain", "good", "bad", "text"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Attributes:
        text: As it is read; escaped where it becomes HTML.
        tone: `bad` and `good` colour what the text says anyway; `text` may be wrapped.
    """

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table; the first cell of a row names it.

    Attributes:
        header: Names of the columns.
        rows: As many cells each.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def _table(header: Sequence[str], rows: Iterator[Sequence[str | Cell]]) -> PageTable:
    cells = (tuple(c if isinstance(c, Cell) else Cell(c) for c in row) for row in rows)
    return PageTable(tuple(header), tuple(cells))


def throughput_table(result: RunResult) -> PageTable:
    """What was offered and what came of it."""
    header = ("arm", result.facts.load_unit, "requests", "failed", "offered /s", "answered /s",
              "tokens/s", "goodput", "good /s", "settled")  # fmt: skip
    return _table(header, (_throughput_row(one) for one in result.summaries))


def _throughput_row(one: LoadSummary) -> Sequence[str | Cell]:
    total, offered, good = one.total, one.offered, one.total.goodput
    is_unsteady = one.steadiness.is_steady is False
    return (
        one.arm,
        f"{one.load:g}",
        f"{total.num_requests:,}",
        Cell(f"{total.num_failed:,}", "bad" if total.num_failed else "plain"),
        wording.number(None if offered is None else offered.offered_per_second),
        wording.number(None if offered is None else offered.answered_per_second),
        wording.number(total.tokens_per_second),
        wording.share(None if good is None else good.share),
        wording.number(None if good is None else good.per_second),
        Cell(wording.steady(one.steadiness), "bad" if is_unsteady else "plain"),
    )


def latency_table(result: RunResult) -> PageTable:
    """Percentiles in ms of all requests of each arm and load."""
    return _table(
        ("arm", result.facts.load_unit, *_LATENCY_HEADER),
        ((one.arm, f"{one.load:g}", *_latencies(one.total)) for one in result.summaries),
    )


def workload_table(result: RunResult) -> PageTable:
    """The same for each workload, with its throughput and tau."""
    return _table(
        ("workload", "arm", result.facts.load_unit, "ok", "tokens/s", "goodput", "tau",
         *_LATENCY_HEADER),
        (_workload_row(group) for one in result.summaries for group in one.workloads),
    )  # fmt: skip


_LATENCY_HEADER = ("TTFT p50", "p90", "p95", "p99", "from send p50", "p95", "TPOT p50", "p95",
                   "p99", "gap p50", "p99", "end to end p50", "p95", "p99")  # fmt: skip


def _latencies(group: Group) -> Sequence[str]:
    late = group.latency
    ttft, sent, tpot = late.ttft_from_schedule, late.ttft_from_send, late.tpot
    gap, end = late.chunk_gap, late.end_to_end
    values = (ttft.p50, ttft.p90, ttft.p95, ttft.p99, sent.p50, sent.p95, tpot.p50, tpot.p95,
              tpot.p99, gap.p50, gap.p99, end.p50, end.p95, end.p99)  # fmt: skip
    return [wording.milliseconds(value) for value in values]


def _workload_row(group: Group) -> Sequence[str]:
    served = [one for one in group.acceptance if one.role != "shadow"]
    taus = ", ".join(wording.bounded(one.tau) for one in served)
    return (
        group.workload or "",
        group.arm,
        f"{group.load:g}",
        f"{group.outcomes['ok']}/{group.num_requests}",
        wording.number(group.tokens_per_second),
        wording.share(None if group.goodput is None else group.goodput.share),
        taus or wording.UNKNOWN,
        *_latencies(group),
    )


def acceptance_table(result: RunResult) -> PageTable:
    """Tau and acceptance by position over all loads, over all requests and by workload."""
    rows = [(one, drafter) for one in result.acceptances for drafter in one.acceptance]
    num_positions = max((len(drafter.positions) for _, drafter in rows), default=0)
    positions = range(1, num_positions + 1)
    header = ("arm", "workload", "drafter", "revision", "requests", "steps", "tau",
              "mean tau of requests", *(f"position {number}" for number in positions))  # fmt: skip
    return _table(
        header,
        (
            (
                one.arm,
                one.workload or "all",
                wording.drafter_name(drafter),
                drafter.revision[:12],
                f"{drafter.num_requests:,}",
                f"{drafter.num_steps:,}",
                wording.bounded(drafter.tau),
                f"{drafter.mean_request_tau:.2f}",
                *(wording.bounded(at.rate) for at in drafter.positions),
                *[wording.UNKNOWN] * (num_positions - len(drafter.positions)),
            )
            for one, drafter in rows
        ),
    )


def join_table(result: RunResult) -> PageTable:
    """Which requests have a record, and why others have none."""

    def rows() -> Iterator[Sequence[str | Cell]]:
        for one in result.acceptances:
            if one.workload is not None:
                continue
            counts = one.joined
            shadows = [
                f"{wording.EXCLUDED_WORDS[r]} ({n:,})" for r, n in counts.shadows_excluded.items()
            ]
            yield (
                one.arm,
                f"{counts.num_requests:,}",
                f"{counts.num_counted:,}",
                Cell(wording.lost_records(counts) or "none", "text"),
                Cell(", ".join(shadows) or "none", "text"),
            )

    return _table(("arm", "requests", "in the statistics", "others", "shadows left out"), rows())


def comparison_table(result: RunResult) -> PageTable:
    """Every ratio with its interval, over all requests first."""
    return _table(
        ("arm", "workload", result.facts.load_unit, "measure", "times the baseline", "prompts",
         "design", "left out", "finding"),
        (
            (
                one.arm,
                one.workload or "all",
                f"{one.load:g}",
                wording.METRIC_NAMES[one.metric],
                wording.ratio(one),
                f"{one.num_units:,}",
                one.design,
                f"{one.num_left_out:,}",
                Cell(_finding(result, one), "text"),
            )
            for one in result.comparisons
        ),
    )  # fmt: skip


def _finding(result: RunResult, one: Comparison) -> str:
    behind = [name for name in (one.baseline, one.arm) if result.keeps_up(name, one.load) is False]
    note = f"; {' and '.join(behind)} fell behind at this load" if behind else ""
    return wording.finding(one) + note


def outcome_table(result: RunResult) -> PageTable:
    """How requests ended."""
    names = list(result.summaries[0].total.outcomes) if result.summaries else []
    return _table(
        ("arm", result.facts.load_unit, *(name.replace("_", " ") for name in names)),
        (
            (one.arm, f"{one.load:g}", *(_outcome(one, name) for name in names))
            for one in result.summaries
        ),
    )


def _outcome(one: LoadSummary, name: str) -> Cell:
    count = {str(key): value for key, value in one.total.outcomes.items()}[name]
    return Cell(f"{count:,}", "bad" if count and name != "ok" else "plain")


def generator_table(result: RunResult) -> PageTable:
    """How late requests were sent."""

    def rows() -> Iterator[Sequence[str | Cell]]:
        for one in result.summaries:
            lag = one.send_lag
            yield (
                one.arm,
                f"{one.load:g}",
                wording.milliseconds(lag.p50),
                wording.milliseconds(lag.p95),
                wording.milliseconds(lag.p99),
                wording.milliseconds(lag.largest),
                wording.share(result.facts.generator_cpu.get((one.arm, one.load))),
                Cell("SATURATED", "bad") if one.is_saturated else "kept up",
            )

    return _table(
        ("arm", result.facts.load_unit, "lag p50", "p95", "p99", "largest", "busiest core",
         "generator"),
        rows(),
    )  # fmt: skip


def service_table(result: RunResult) -> PageTable:
    """The servers and what was read of them."""

    def rows() -> Iterator[Sequence[str | Cell]]:
        for arm in result.facts.arms:
            service = result.service_of(arm)
            if service is None:
                yield (arm.name, arm.url, "not asked", *[wording.UNKNOWN] * 6)
                continue
            facts = service.facts
            drafters = [] if facts is None else [f"{d[0]} ({d[1][:12]})" for d in facts.drafters]
            yield (
                arm.name,
                service.url,
                service.standing.replace("_", " "),
                Cell(", ".join(drafters) or wording.UNKNOWN, "text"),
                wording.UNKNOWN if facts is None else f"{facts.num_draft_tokens}",
                f"{len(service.records):,}",
                Cell(f"{service.num_missed:,}", "bad" if service.num_missed else "plain"),
                Cell(f"{service.num_restarts:,}", "bad" if service.num_restarts else "plain"),
                Cell(service.problem or "none", "text"),
            )

    return _table(
        ("arm", "server", "records", "champion", "draft tokens", "read", "missed", "restarts",
         "problem"),
        rows(),
    )  # fmt: skip
