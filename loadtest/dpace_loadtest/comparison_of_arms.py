"""How much faster an arm is than the baseline, on the same prompts where there are such.

Every ratio is turned so that above 1 the arm is better. Times and rates are compared by their
logarithms, so that twice as fast and half as fast weigh the same:

    paired    d_u = mean over the prompts of unit u of (ln x_arm - ln x_baseline)
              ln ratio = mean(d), SE = sd(d) / sqrt(n), Student's t with n - 1 degrees
    unpaired  ln ratio = mean(ln x_arm) - mean(ln x_baseline), Welch's SE and degrees

where x of a prompt is its geometric mean over the rounds: a prompt that was sent more often weighs
no more. The unit is the conversation, which is the prompt where nothing else was said: turns share
a prefix, and are not independent. Tau is the ratio of the pooled taus, weighted by steps, with the
delta method over the same units.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Literal, get_args

from dpace_loadtest.acceptance_summary import CONFIDENCE
from dpace_loadtest.join import JoinedRow
from dpace_loadtest.rows import RequestRow
from dpace_loadtest.student_t import student_t_quantile
from dpace_serve.acceptance.estimate import EstimatePair
from dpace_serve.acceptance.moments import AcceptanceMoments
from dpace_serve.acceptance.paired_moments import PairSums, tau_estimate

Metric = Literal["tokens_per_second", "tpot", "ttft", "tau"]
"""What is compared:

- tokens_per_second: tokens of an answer over the time from its schedule to its end.
- tpot: time per output token after the first; the ratio is the baseline's over the arm's.
- ttft: time to the first token, from the schedule; turned alike.
- tau: tokens per verification step.
"""
METRICS: tuple[Metric, ...] = get_args(Metric)
Design = Literal["paired", "unpaired"]
MIN_UNITS = 2
"""Units, or pairs of them, below which there is no spread to speak of."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One arm against the baseline in one metric.

    Attributes:
        arm: The arm.
        baseline: What it is compared with.
        load: At which both ran.
        workload: Of the requests; none is all of them.
        metric: What is compared.
        design: Paired over the units that both answered, or not for lack of them.
        num_units: Pairs; of two samples the units of the smaller one.
        num_left_out: Prompts that only one of the arms has a value for, in a paired design.
        ratio: Above 1 the arm is better; none without data.
        low: Lower bound; none below two units.
        high: Upper bound.
    """

    arm: str
    baseline: str
    load: float
    workload: str | None
    metric: Metric
    design: Design
    num_units: int
    num_left_out: int
    ratio: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class _LogRatio:
    design: Design
    num_units: int
    num_left_out: int
    value: float | None
    standard_error: float | None
    degrees: int


def compare_arms(
    joined: Sequence[JoinedRow], arms: Sequence[str], baseline: str
) -> tuple[Comparison, ...]:
    """Every other arm against the baseline, at every load that both have.

    Args:
        joined: All requests, warm-up included, which tells whose turn follows whose.
        arms: Names in order.
        baseline: One of them.
    """
    units = _units(one.row for one in joined)
    cells: dict[tuple[str, float, str | None], list[JoinedRow]] = {}
    for one in joined:
        row = one.row
        if row.phase == "measured" and row.outcome == "ok":
            for workload in (None, row.workload):
                cells.setdefault((row.arm, row.load, workload), []).append(one)
    workloads = sorted({key[2] for key in cells if key[2] is not None})
    found: list[Comparison] = []
    for arm in (name for name in arms if name != baseline):
        for load in sorted({key[1] for key in cells if key[0] == arm}):
            for workload in (None, *workloads):
                a = cells.get((baseline, load, workload))
                b = cells.get((arm, load, workload))
                if a and b:
                    for metric in METRICS:
                        found.append(_comparison(a, b, metric, workload, units))
    return tuple(found)


def _comparison(
    a: Sequence[JoinedRow],
    b: Sequence[JoinedRow],
    metric: Metric,
    workload: str | None,
    units: Mapping[str, str],
) -> Comparison:
    log_ratio = _tau_ratio(a, b, units) if metric == "tau" else _value_ratio(a, b, metric, units)
    value, error = log_ratio.value, log_ratio.standard_error
    low = high = None
    if value is not None and error is not None and not math.isnan(error):
        reach = student_t_quantile(CONFIDENCE, log_ratio.degrees) * error
        low, high = math.exp(value - reach), math.exp(value + reach)
    return Comparison(
        arm=b[0].row.arm,
        baseline=a[0].row.arm,
        load=a[0].row.load,
        workload=workload,
        metric=metric,
        design=log_ratio.design,
        num_units=log_ratio.num_units,
        num_left_out=log_ratio.num_left_out,
        ratio=None if value is None else math.exp(value),
        low=low,
        high=high,
    )


def _value_ratio(
    a: Sequence[JoinedRow], b: Sequence[JoinedRow], metric: Metric, units: Mapping[str, str]
) -> _LogRatio:
    of_a, of_b = _log_means(a, _VALUES[metric]), _log_means(b, _VALUES[metric])
    shared = of_a.keys() & of_b.keys()
    differences = _means_by_unit({prompt: of_b[prompt] - of_a[prompt] for prompt in shared}, units)
    num_left_out = len(of_a.keys() ^ of_b.keys())
    if len(differences) >= MIN_UNITS:
        error = math.sqrt(variance(differences) / len(differences))
        return _LogRatio(
            "paired", len(differences), num_left_out, fmean(differences), error,
            len(differences) - 1,
        )  # fmt: skip
    return _welch(_means_by_unit(of_a, units), _means_by_unit(of_b, units))


def _welch(a: Sequence[float], b: Sequence[float]) -> _LogRatio:
    num_units = min(len(a), len(b))
    if not num_units:
        return _LogRatio("unpaired", 0, 0, None, None, 0)
    value = fmean(b) - fmean(a)
    if num_units < MIN_UNITS:
        return _LogRatio("unpaired", num_units, 0, value, None, 0)
    part_a, part_b = variance(a) / len(a), variance(b) / len(b)
    total = part_a + part_b
    # Rounded down, which widens the interval; equal values have no spread and any degrees do.
    spread = part_a**2 / (len(a) - 1) + part_b**2 / (len(b) - 1)
    degrees = max(1, math.floor(total**2 / spread)) if spread else num_units - 1
    return _LogRatio("unpaired", num_units, 0, value, math.sqrt(total), degrees)


def _tau_ratio(
    a: Sequence[JoinedRow], b: Sequence[JoinedRow], units: Mapping[str, str]
) -> _LogRatio:
    of_a, of_b = _steps_by_prompt(a), _steps_by_prompt(b)
    shared = of_a.keys() & of_b.keys()
    num_left_out = len(of_a.keys() ^ of_b.keys())
    pairs_a, pairs_b = (_sums_by_unit(of_one, shared, units) for of_one in (of_a, of_b))
    if len(pairs_a) >= MIN_UNITS:
        in_order = sorted(pairs_a)
        pair = PairSums.from_pairs(
            [pairs_a[unit] for unit in in_order], [pairs_b[unit] for unit in in_order]
        ).taus()
        log_ratio = pair.log_ratio()
        return _LogRatio(
            "paired", len(in_order), num_left_out, log_ratio.value, log_ratio.standard_error,
            len(in_order) - 1,
        )  # fmt: skip
    alone = [_sums_by_unit(of_one, of_one.keys(), units) for of_one in (of_a, of_b)]
    num_units = min(len(sums) for sums in alone)
    if not num_units:
        return _LogRatio("unpaired", 0, 0, None, None, 0)
    tau_a, tau_b = (tau_estimate(AcceptanceMoments.from_pairs(sums.values())) for sums in alone)
    if num_units < MIN_UNITS:
        value = math.log(tau_b.value / tau_a.value)
        return _LogRatio("unpaired", num_units, 0, value, None, 0)
    log_ratio = EstimatePair(tau_a, tau_b, 0.0).log_ratio()
    return _LogRatio(
        "unpaired", num_units, 0, log_ratio.value, log_ratio.standard_error, num_units - 1
    )


def _units(rows: Iterable[RequestRow]) -> Mapping[str, str]:
    """Conversation of each prompt that is no first turn, as the prompt of its first turn."""
    first: dict[tuple[str, float, int, int], str] = {}
    later: list[tuple[tuple[str, float, int, int], str]] = []
    for row in rows:
        session = (row.arm, row.load, row.round, row.session)
        if row.turn == 0:
            first[session] = row.prompt_key
        else:
            later.append((session, row.prompt_key))
    return {prompt: first[session] for session, prompt in later if session in first}


def _log_means(
    joined: Sequence[JoinedRow], value_of: Callable[[RequestRow], float | None]
) -> dict[str, float]:
    """Mean logarithm of each prompt over its rounds, without values that have none."""
    logs: dict[str, list[float]] = {}
    for one in joined:
        value = value_of(one.row)
        if value:
            logs.setdefault(one.row.prompt_key, []).append(math.log(value))
    return {prompt: fmean(values) for prompt, values in logs.items()}


def _means_by_unit(of_prompt: Mapping[str, float], units: Mapping[str, str]) -> list[float]:
    grouped: dict[str, list[float]] = {}
    for prompt in sorted(of_prompt):
        grouped.setdefault(units.get(prompt, prompt), []).append(of_prompt[prompt])
    return [fmean(values) for values in grouped.values()]


def _steps_by_prompt(joined: Sequence[JoinedRow]) -> dict[str, tuple[int, int]]:
    """Accepted tokens and steps of each prompt, all rounds together."""
    sums: dict[str, tuple[int, int]] = {}
    for one in joined:
        record = one.served
        if record is not None and record.excluded is None:
            accepted, steps = sums.get(one.row.prompt_key, (0, 0))
            sums[one.row.prompt_key] = accepted + record.accepted, steps + record.steps
    return sums


def _sums_by_unit(
    of_prompt: Mapping[str, tuple[int, int]], prompts: Iterable[str], units: Mapping[str, str]
) -> dict[str, tuple[int, int]]:
    sums: dict[str, tuple[int, int]] = {}
    for prompt in prompts:
        unit = units.get(prompt, prompt)
        accepted, steps = sums.get(unit, (0, 0))
        sums[unit] = accepted + of_prompt[prompt][0], steps + of_prompt[prompt][1]
    return sums


def _tokens_per_second(row: RequestRow) -> float | None:
    tokens, seconds = row.completion_tokens, row.end_to_end_seconds
    return tokens / seconds if tokens and seconds > 0 else None


def _inverse(seconds: float | None) -> float | None:
    return 1 / seconds if seconds and seconds > 0 else None


_VALUES: dict[Metric, Callable[[RequestRow], float | None]] = {
    "tokens_per_second": _tokens_per_second,
    "tpot": lambda row: _inverse(row.tpot_seconds),
    "ttft": lambda row: _inverse(row.ttft_from_schedule_seconds),
}
