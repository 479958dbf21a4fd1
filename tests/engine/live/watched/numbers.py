"""What the records of a watched server say of acceptance, added up anew and apart from the service.

Keys are label values in the order of the labels; a series without an event is 0.
"""

import collections
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dpace_serve.acceptance.moments import AcceptanceMoments

ARMS = (("dpace", "champion"), ("dflash", "shadow"), ("dflash", "challenger"))
POSITIONS = range(1, 8)
WHO, WHERE = ("drafter", "arm"), ("drafter", "arm", "workload")
Series = dict[tuple[str, ...], float]

MOMENTS: dict[str, Callable[[int, int], int]] = {
    "requests": lambda y, m: 1,
    "accepted": lambda y, m: y,
    "steps": lambda y, m: m,
    "accepted_squared": lambda y, m: y * y,
    "steps_squared": lambda y, m: m * m,
    "accepted_steps": lambda y, m: y * m,
}
"""Of a request with y accepted tokens in m steps."""

POSITION_MOMENTS: dict[str, Callable[[int, int], int]] = {
    "requests": lambda a, d: int(d > 0),
    "accepted": lambda a, d: a,
    "drafted": lambda a, d: d,
    "accepted_squared": lambda a, d: a * a,
    "drafted_squared": lambda a, d: d * d,
    "accepted_drafted": lambda a, d: a * d,
}
"""Of a request of which d steps drafted the position and a accepted it."""


def workloads(watched) -> list[str]:
    samples = watched.samples["dpace_request_tau_count"]
    return sorted({sample.labels["workload"] for sample in samples})


def sums(watched, labels: Sequence[str], value: Callable[[dict[str, Any]], float]) -> Series:
    """Sums over the counted records."""
    choices = workloads(watched) if "workload" in labels else [""]
    found = {
        (*who, workload)[: len(labels)]: 0.0 for who, workload in itertools.product(ARMS, choices)
    }
    for record in watched.counted():
        found[tuple(record[label] for label in labels)] += value(record)
    return found


def moments(watched, labels: Sequence[str], name: str) -> Series:
    """One of the sums over requests behind tau."""
    of = MOMENTS[name]
    return sums(watched, labels, lambda r: of(sum(r["per_step_accepted"]), r["steps"]))


def position_moments(watched, labels: Sequence[str], name: str) -> Series:
    """One of the sums over requests behind acceptance, by position."""
    of = POSITION_MOMENTS[name]
    return {
        (*key, str(position)): value
        for position in POSITIONS
        for key, value in sums(
            watched,
            labels,
            lambda r, k=position: of(reach(r, "accepted", k), reach(r, "drafted", k)),
        ).items()
    }


def reach(record: dict[str, Any], what: str, position: int) -> int:
    """Steps whose drafts, or accepted drafts, reach this position."""
    return sum(length >= position for length in record[f"per_step_{what}"])


def ratio(one: Series, other: Series) -> Series:
    return {key: one[key] / other[key] for key in other if other[key]}


def tau(watched, labels: Sequence[str]) -> Series:
    found = ratio(moments(watched, labels, "accepted"), moments(watched, labels, "steps"))
    return {key: 1 + rate for key, rate in found.items()}


def acceptance(watched, labels: Sequence[str]) -> Series:
    accepted, drafted = (
        position_moments(watched, labels, name) for name in ("accepted", "drafted")
    )
    return ratio(accepted, drafted)


def tau_error(watched, labels: Sequence[str]) -> Series:
    """Standard error of tau where two requests or more tell it, of Prometheus' sums."""
    requests = moments(watched, labels, "requests")
    counted = sum(requests.values())
    scale = watched.value("sum(dpace:acceptance_requests:increase1h)") / counted
    return {
        key: extrapolated(watched.moments(**dict(zip(labels, key, strict=True))), scale)
        for key, number in requests.items()
        if number >= 2
    }


def acceptance_error(watched) -> Series:
    """As of tau; none where all or nothing was accepted."""
    drafted = position_moments(watched, WHO, "drafted")
    scale = watched.value("sum(dpace:position_drafted:increase1h)") / sum(drafted.values())
    found = {}
    for key, rate in acceptance(watched, WHO).items():
        *who, position = key
        pairs = [
            (reach(record, "accepted", int(position)), reach(record, "drafted", int(position)))
            for record in watched.counted(**dict(zip(WHO, who, strict=True)))
        ]
        at = AcceptanceMoments.from_pairs(pair for pair in pairs if pair[1])
        if at.requests >= 2 and 0 < rate < 1:
            found[key] = extrapolated(at, scale)
    return found


def extrapolated(of_records: AcceptanceMoments, scale: float) -> float:
    """The standard error of sums that Prometheus all extrapolates by one factor, n among them."""
    n = of_records.requests
    correction = (n * scale / (n * scale - 1)) / (n / (n - 1)) / scale
    return of_records.tau_standard_error * math.sqrt(correction)


def log_lift(watched, labels: Sequence[str]) -> Series:
    """Of each challenger over the champion, in the same workload."""
    taus = tau(watched, labels)
    return {
        key: math.log(value / taus["dpace", "champion", *key[2:]])
        for key, value in taus.items()
        if key[1] != "champion"
    }


def log_lift_error(watched, labels: Sequence[str]) -> Series:
    taus, errors = tau(watched, labels), tau_error(watched, labels)
    relative = {key: error / taus[key] for key, error in errors.items()}
    return {
        key: math.hypot(value, relative["dpace", "champion", *key[2:]])
        for key, value in relative.items()
        if key[1] != "champion"
    }


def step_costs(watched, step_ms: Mapping[int, float]) -> Series:
    """Calibrated time of the timed steps at each draft length, over the time they took."""
    steps = watched.sample("dpace_calibrated_decode_steps_total")
    taken = watched.sample("dpace_calibrated_decode_seconds_total")
    return {(str(length),): steps * ms / 1000 / taken for length, ms in step_ms.items()}


def speedup(watched) -> float:
    plain = watched.sample("dpace_plain_decode_seconds_total")
    return plain / watched.sample("dpace_calibrated_decode_seconds_total")


def break_even(watched, step_ms: Mapping[int, float]) -> Series:
    rates, lines = acceptance(watched, WHO), {}
    for who in ARMS:
        reached = 1.0
        for position in POSITIONS:
            extra = (step_ms[position] - step_ms[position - 1]) / step_ms[position - 1]
            lines[*who, str(position)] = reached * extra
            reached += rates[*who, str(position)]
    return lines


def marginal_gain(watched, step_ms: Mapping[int, float]) -> Series:
    lines = break_even(watched, step_ms)
    return {key: rate - lines[key] for key, rate in acceptance(watched, WHO).items()}


def drawn(watched) -> Series:
    """Requests of a split whose ids decided who serves them."""
    arms = collections.Counter(
        record["arm"] for record in watched.records if "chosen" not in record["request_id"]
    )
    return {(arm,): arms[arm] for arm in ("champion", "challenger")}


def chi_squared(watched) -> float:
    """Of the drawn requests against halves."""
    of_challenger, total = drawn(watched)["challenger",], sum(drawn(watched).values())
    return (of_challenger - total / 2) ** 2 / (total / 4)


def quantile(share: float, counts: Mapping[float, float]) -> float:
    """As Prometheus tells it from counts at most as big as each bound: linear inside a bucket."""
    rank, below, lower = share * counts[math.inf], 0.0, 0.0
    for upper, count in sorted(counts.items()):
        if count >= rank:
            part = (rank - below) / (count - below)
            return lower if upper == math.inf else lower + (upper - lower) * part
        below, lower = count, upper
    raise AssertionError("no bucket holds everything")
