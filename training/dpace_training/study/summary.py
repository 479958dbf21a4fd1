"""The result of a study: every arm over all seeds, and against the baseline.

Two sources of chance are kept apart. Prompts: seeds are summed first, the prompt is the unit, and
the interval says how sure the result is for these very runs. Seeds: the ratio is taken run by run,
its logarithms are averaged, and Student's t on them says how sure it is for a run with another
seed. A difference counts as clear when both intervals exclude it.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from dpace_serve.acceptance.moments import AcceptanceMoments, paired_tau_ratio
from dpace_training.study.config import StudyConfig

CONFIDENCE = 0.95
DIGITS = 6

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class RunAcceptance:
    """One run on one held-out set: (accepted drafts, steps) by prompt, and sums by position."""

    pairs: Pairs
    accepted: tuple[int, ...]
    drafted: tuple[int, ...]

    def to_record(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "pairs": [list(pair) for pair in self.pairs],
            "accepted": list(self.accepted),
            "drafted": list(self.drafted),
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "RunAcceptance":
        """What `to_record` gave."""
        return cls(
            pairs=tuple((accepted, steps) for accepted, steps in record["pairs"]),
            accepted=tuple(record["accepted"]),
            drafted=tuple(record["drafted"]),
        )


@dataclass(frozen=True, slots=True)
class RunResult:
    """One arm with one seed: its length, its drafter's size, acceptance, and tau by step."""

    arm: str
    seed: int
    steps: int
    parameters: int
    sets: dict[str, RunAcceptance]
    curve: dict[int, float]


def study_result(config: StudyConfig, results: Sequence[RunResult]) -> dict[str, Any]:
    """Sum up: for each arm and held-out set tau, acceptance by position and ratio to the baseline.

    Args:
        config: The study.
        results: One for each arm and seed.
    """
    by_arm = {
        arm: [next(r for r in results if (r.arm, r.seed) == (arm, seed)) for seed in config.seeds]
        for arm in config.arms
    }
    return {
        "target": config.base.target.name,
        "block_size": config.base.drafter.block_size,
        "baseline": config.baseline,
        "seeds": list(config.seeds),
        "confidence": CONFIDENCE,
        "arms": [
            {
                "name": arm,
                "objective": _objective(config, arm),
                "steps": runs[0].steps,
                "parameters": runs[0].parameters,
                "curve": _mean_curve([run.curve for run in runs]),
                "sets": {
                    name: _set_record(
                        [run.sets[name] for run in runs],
                        [run.sets[name] for run in by_arm[config.baseline]],
                    )
                    for name in config.held_out
                },
            }
            for arm, runs in by_arm.items()
        ],
    }


def _objective(config: StudyConfig, arm: str) -> str:
    name, specialists = config.arms[arm].name, config.specialists.get(arm)
    if specialists is None:
        return name
    return f"{name}, {specialists.kind} specialists of {specialists.group_size} positions"


def ratio_across_seeds(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of ratios and its interval by Student's t; nan bounds for one ratio."""
    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return math.exp(mean), math.nan, math.nan
    quantile = stats.t.ppf(0.5 + CONFIDENCE / 2, len(logs) - 1)
    reach = float(quantile) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - reach), math.exp(mean + reach)


def mean_across_seeds(rates: Sequence[float]) -> tuple[float, float]:
    """Interval of a mean of rates by Student's t, cut at 0 and 1.

    The bounds are nan for one rate, and where a run has none.
    """
    if len(rates) < 2 or any(math.isnan(rate) for rate in rates):
        return math.nan, math.nan
    mean = statistics.fmean(rates)
    quantile = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(rates) - 1))
    reach = quantile * statistics.stdev(rates) / math.sqrt(len(rates))
    return max(0.0, mean - reach), min(1.0, mean + reach)


def _position_interval(runs: Sequence[RunAcceptance], position: int) -> list[float | None]:
    counts = [(run.accepted[position], run.drafted[position]) for run in runs]
    rates = [accepted / drafted if drafted else math.nan for accepted, drafted in counts]
    return [_number(bound) for bound in mean_across_seeds(rates)]


def _set_record(runs: Sequence[RunAcceptance], baseline: Sequence[RunAcceptance]) -> dict[str, Any]:
    taus = [AcceptanceMoments.from_pairs(run.pairs).tau for run in runs]
    summed = _summed(runs)
    low, high = AcceptanceMoments.from_pairs(summed).tau_interval(CONFIDENCE)
    accepted = [sum(counts) for counts in zip(*(run.accepted for run in runs), strict=True)]
    drafted = [sum(counts) for counts in zip(*(run.drafted for run in runs), strict=True)]
    by_seed = [
        paired_tau_ratio(base.pairs, run.pairs, CONFIDENCE).ratio
        for base, run in zip(baseline, runs, strict=True)
    ]
    ratio, seed_low, seed_high = ratio_across_seeds(by_seed)
    prompts = paired_tau_ratio(_summed(baseline), summed, CONFIDENCE)
    return {
        "prompts": len(runs[0].pairs),
        "tau": _number(AcceptanceMoments.from_pairs(summed).tau),
        "tau_low": _number(low),
        "tau_high": _number(high),
        "tau_by_seed": [_number(tau) for tau in taus],
        "accepted_per_position": [
            _number(a / d) if d else None for a, d in zip(accepted, drafted, strict=True)
        ],
        "accepted_across_seeds": [_position_interval(runs, place) for place in range(len(drafted))],
        "ratio": {
            "tau_ratio": _number(ratio),
            "by_seed": [_number(value) for value in by_seed],
            "across_seeds": [_number(seed_low), _number(seed_high)],
            "across_prompts": [_number(prompts.low), _number(prompts.high)],
        },
    }


def _summed(runs: Sequence[RunAcceptance]) -> Pairs:
    """Each prompt's pair, summed over the runs."""
    return tuple(
        (sum(accepted for accepted, _ in of_prompt), sum(steps for _, steps in of_prompt))
        for of_prompt in zip(*(run.pairs for run in runs), strict=True)
    )


def _mean_curve(curves: Sequence[dict[int, float]]) -> list[dict[str, int | float]]:
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    return [
        {"step": step, "tau": round(statistics.fmean(curve[step] for curve in curves), DIGITS)}
        for step in steps
    ]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, DIGITS)
