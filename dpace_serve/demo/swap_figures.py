"""What a run of swaps under load shows, in numbers."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from dpace_serve.demo.chunk_gaps import GapFigures, Span, spans_between, split_gaps
from dpace_serve.demo.swap_load import Swap, SwapRun


@dataclass(frozen=True, slots=True)
class Spread:
    """Some seconds: the middle and the ends."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class SwapFigures:
    """The figures of a run.

    Attributes:
        num_swaps: Measured swaps, all of which loaded a drafter.
        num_requests: Requests that ran beside swaps, those that failed too.
        num_failed: Those that failed.
        num_different: Answers beside swaps that differ from the answers before.
        num_control_requests: Requests of the streams without swaps.
        num_control_different: The same difference where there were no swaps.
        num_busy: Swaps that were refused with 409 and asked for again.
        resident_before_bytes: Memory after the warm-up.
        resident_after_bytes: Memory after the last swap.
        resident_growth_bytes_per_swap: Slope of the memory over the measured swaps.
        total_seconds: One swap, as the server counts it.
        load_seconds: Its part in which the engine loads, and steps for nobody.
        wait_seconds: Its part that neither loads nor checks files: the wait for a slot.
        check_seconds: The part that does not load of a swap on the idle server.
        gaps_loading: Gaps between chunks of a stream while a drafter is loaded.
        gaps_as_long: The same in spans of equal length between two loads.
        gaps_otherwise: All gaps beside swaps in which nothing was loaded.
        gaps_control: Gaps of the streams without swaps.
        client_cpu_share: Share of one core that the client took.
        client_lateness_p99_ms: How late the client itself was.
        seconds: How long all that took.
    """

    num_swaps: int
    num_requests: int
    num_failed: int
    num_different: int
    num_control_requests: int
    num_control_different: int
    num_busy: int
    resident_before_bytes: int
    resident_after_bytes: int
    resident_growth_bytes_per_swap: float
    total_seconds: Spread
    load_seconds: Spread
    wait_seconds: Spread
    check_seconds: Spread
    gaps_loading: GapFigures
    gaps_as_long: GapFigures
    gaps_otherwise: GapFigures
    gaps_control: GapFigures
    client_cpu_share: float
    client_lateness_p99_ms: float
    seconds: float

    @property
    def resident_ratio(self) -> float:
        """Memory at the end over memory after the warm-up."""
        return self.resident_after_bytes / self.resident_before_bytes


def swap_figures(run: SwapRun) -> SwapFigures:
    """Count and sum up a run."""
    checks = [swap.other_seconds for swap in run.idle]
    loads = _load_spans([*run.warm_up, *run.swaps], check_seconds=max(checks))
    gaps = run.loaded.gaps()
    loading, otherwise = split_gaps(gaps, loads)
    as_long, _ = split_gaps(otherwise, spans_between(loads))
    memory = [swap.resident_bytes for swap in run.swaps]
    usual_check = statistics.median(checks)
    return SwapFigures(
        num_swaps=len(run.swaps),
        num_requests=len(run.loaded.answers) + len(run.loaded.failures),
        num_failed=len(run.loaded.failures),
        num_different=run.loaded.num_different(run.references),
        num_control_requests=len(run.control.answers) + len(run.control.failures),
        num_control_different=run.control.num_different(run.references),
        num_busy=sum(swap.num_busy for swap in (*run.warm_up, *run.swaps)),
        resident_before_bytes=run.warm_up[-1].resident_bytes,
        resident_after_bytes=memory[-1],
        resident_growth_bytes_per_swap=_slope(memory),
        total_seconds=Spread.of([swap.total_seconds for swap in run.swaps]),
        load_seconds=Spread.of([swap.load_seconds for swap in run.swaps]),
        wait_seconds=Spread.of([max(0.0, swap.other_seconds - usual_check) for swap in run.swaps]),
        check_seconds=Spread.of(checks),
        gaps_loading=GapFigures.of(loading),
        gaps_as_long=GapFigures.of(as_long),
        gaps_otherwise=GapFigures.of(otherwise),
        gaps_control=GapFigures.of(run.control.gaps()),
        client_cpu_share=run.client_cpu_seconds / run.seconds,
        client_lateness_p99_ms=1e3 * statistics.quantiles(run.loaded.lateness_seconds, n=100)[98],
        seconds=run.seconds,
    )


def _load_spans(swaps: Sequence[Swap], *, check_seconds: float) -> list[Span]:
    """When drafters were loaded: right before each answer, but for the last check of the files.

    Nobody says when loading began and ended, only how long it took, so a span may be too long by
    that check. It begins no sooner than the swap.
    """
    spans = [
        (max(swap.began, swap.ended - swap.load_seconds - check_seconds), swap.ended)
        for swap in swaps
    ]
    if any(end > begin for (_, end), (begin, _) in pairwise(spans)):
        raise ValueError("swaps must follow each other")
    return spans


def _slope(values: Sequence[float]) -> float:
    """Growth per value of the line through them; nan for fewer than two."""
    if len(values) < 2:
        return math.nan
    return statistics.linear_regression(range(len(values)), values).slope
