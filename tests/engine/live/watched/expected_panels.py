"""The value of every query of every panel, from the records of the server and the known traffic."""

import collections
import itertools
import math

from dpace_serve.acceptance.arm import ARMS as ALL_ARMS
from dpace_serve.acceptance.exclusion import EXCLUSION_REASONS
from dpace_serve.metrics.labels import DRAFTER_OPERATIONS, OPERATION_RESULTS, SHADOW_OUTCOMES
from tests.engine.live.watched import numbers
from tests.engine.live.watched.conftest import NUM_DRAFT_TOKENS
from tests.engine.live.watched.expected_rules import AT, RULES, Expected
from tests.engine.live.watched.numbers import WHERE, WHO, Series

HOUR = 3600
"""Rates are asked for over an hour, which holds everything: the count over its seconds."""
ALERT_LABELS = ("alertname", "drafter", "arm", "workload", "operation", "result")


def _each(of, scale=1.0, **more) -> Expected:
    """What a function gives, by replica."""
    return Expected(("instance",), lambda w: {(w.instance,): of(w) * scale}, **more)


def _one(of) -> Expected:
    return Expected((), lambda w: {(): of(w)})


def _per_hour(labels, of) -> Expected:
    return Expected(labels, lambda w: {key: value / HOUR for key, value in of(w).items()})


def _interval(middle: str, error: str, labels, *, change=lambda value: value) -> list[Expected]:
    """Estimate, lower and upper bound of two rules."""

    def bound(side: int):
        def of(watched) -> Series:
            middles, errors = RULES[middle].of(watched), RULES[error].of(watched)
            return {key: change(middles[key] + side * 1.96 * errors[key]) for key in errors}

        return of

    return [
        Expected(
            labels,
            lambda w: {key: change(value) for key, value in RULES[middle].of(w).items()},
            rel=1e-6,
        ),
        Expected(labels, bound(-1), rel=1e-6),
        Expected(labels, bound(1), rel=1e-6),
    ]


def _served(expected: Expected) -> Expected:
    """Without the shadow."""
    return expected._replace(
        of=lambda w: {key: value for key, value in expected.of(w).items() if "shadow" not in key}
    )


def _cut(expected: Expected, low: float, high: float) -> Expected:
    return expected._replace(
        of=lambda w: {key: min(max(value, low), high) for key, value in expected.of(w).items()}
    )


def _used(watched, what: str) -> float:
    return sum(answer["usage"][what] for answer in watched.answers)


def _num_answers(watched) -> float:
    return sum(len(answer["choices"]) for answer in watched.answers)


def _alerts(watched) -> Series:
    """What waits and what fires; that is the one operation which was refused."""
    states = {
        (alert["state"], *(alert["labels"].get(label, "") for label in ALERT_LABELS)): 1.0
        for rule in watched.rules
        for alert in rule.get("alerts", [])
    }
    firing = [labels for labels in states if labels[0] == "firing"]
    assert firing == [("firing", "SwapFailed", "", "", "", "challenge", "refused")]
    return states


def _slots(watched) -> Series:
    """Roles of the loaded drafters; a challenger may serve whoever chooses it, and shadows."""
    arms = {"champion": ["champion"], "challenger": ["challenger", "shadow"]}
    return {
        (slot["name"], slot["revision"], arm, "dflash", "8"): 1
        for slot in watched.slots
        for arm in arms.get(slot["role"], [])
    }


def _excluded(watched) -> Series:
    found = collections.Counter((record["arm"], record["excluded"]) for record in watched.records)
    return {key: found[key] for key in itertools.product(ALL_ARMS, EXCLUSION_REASONS)}


def _operations(watched) -> Series:
    """One folder was absent."""
    found = dict.fromkeys(itertools.product(DRAFTER_OPERATIONS, OPERATION_RESULTS), 0)
    return found | {("challenge", "refused"): 1}


def _outcomes(watched) -> Series:
    found = collections.Counter()
    for record in watched.records:
        if record["arm"] == "shadow":
            is_open = record["unsettled_drafted"] > 0
            outcome = "answer_ended" if is_open else "settled"
            found["excluded" if record["excluded"] else outcome] += 1
    return {("dflash", outcome): found[outcome] for outcome in SHADOW_OUTCOMES}


def _taus(share: float) -> Expected:
    """Of single requests, in buckets of width 1."""

    def of(watched) -> Series:
        found = {}
        for drafter, arm in numbers.ARMS:
            taus = [
                1 + sum(record["per_step_accepted"]) / record["steps"]
                for record in watched.counted(drafter=drafter, arm=arm)
            ]
            bounds = [*range(1, NUM_DRAFT_TOKENS + 2), math.inf]
            counts = {bound: sum(tau <= bound for tau in taus) for bound in bounds}
            found[drafter, arm] = numbers.quantile(share, counts)
        return found

    return Expected(WHO, of)


def _latency(share: float, metric: str) -> Expected:
    def of(watched) -> float:
        counts = collections.Counter()
        for sample in watched.samples[f"{metric}_bucket"]:
            counts[float(sample.labels["le"])] += sample.value
        return numbers.quantile(share, counts)

    return _each(of)


def _unsettled(watched) -> Series:
    unsettled = numbers.sums(watched, WHO, lambda r: r["unsettled_drafted"])
    settled = numbers.sums(watched, WHO, lambda r: sum(r["per_step_drafted"]))
    return {key: value / (value + settled[key]) for key, value in unsettled.items()}


def _difference(watched) -> Series:
    rates = numbers.acceptance(watched, WHO)
    return {
        key: rate - rates["dpace", "champion", key[2]]
        for key, rate in rates.items()
        if key[1] != "champion"
    }


def _decision(watched) -> Series:
    (row,) = watched.verdict["comparisons"]
    return {(row["challenger"]["name"], row["challenger"]["revision"], row["decision"]): 1}


def _effect(watched) -> Series:
    (row,) = watched.verdict["comparisons"]
    effect = row["effect"]
    return {("estimate",): effect["lift"], ("low",): effect["low"], ("high",): effect["high"]}


def _by_workload(name, *, served=True):
    def of(watched) -> Series:
        found = dict.fromkeys(((workload,) for workload in numbers.workloads(watched)), 0)
        for (_, arm, workload), value in name(watched).items():
            if not (served and arm == "shadow"):
                found[workload,] += value
        return found

    return of


def _requests(watched) -> Series:
    return numbers.moments(watched, WHERE, "requests")


def _steps(watched) -> Series:
    return numbers.moments(watched, WHERE, "steps")


def _emitted(watched) -> Series:
    """Tokens in answers; a shadow puts none there."""
    return numbers.sums(watched, WHERE, lambda r: (r["arm"] != "shadow") * r["emitted_tokens"])


def _mean_drafts(watched) -> float:
    served = [record for record in watched.counted() if record["arm"] != "shadow"]
    drafted = sum(sum(record["per_step_drafted"]) for record in served)
    return drafted / sum(record["steps"] for record in served)


def _steps_at_1(what: str):
    return lambda w: numbers.sums(w, WHERE, lambda r: numbers.reach(r, what, 1))


TAU = _interval("dpace:tau_overall:rate1h", "dpace:tau_overall_se:rate1h", WHO)
SPEEDUP = [RULES["dpace:speedup_estimate:rate5m"]]
RATE, RATE_LOW, RATE_HIGH = _interval(
    "dpace:acceptance_overall:ratio1h", "dpace:acceptance_overall_se:ratio1h", AT
)


def _lift(rule: str, labels) -> list[Expected]:
    return _interval(
        f"dpace:{rule}:rate1h", f"dpace:{rule}_se:rate1h", labels, change=lambda v: math.exp(v) - 1
    )


OVERVIEW = {
    "Estimated speed-up over no speculation": SPEEDUP,
    "Tau of the champion": [
        Expected(WHO, lambda w: {("dpace", "champion"): w.moments(arm="champion").tau})
    ],
    "Tokens per second": [_one(lambda w: _used(w, "completion_tokens") / HOUR)],
    "Requests per second": [_one(lambda w: _num_answers(w) / HOUR)],
    "Alerts firing": [_one(lambda w: 1)],
    "Records lost": [_one(lambda w: 0)],
    "Estimated speed-up": SPEEDUP,
    "Tau of the last hour, with its 95 % interval": [_served(each) for each in TAU],
    "Tokens per second by replica": [_each(lambda w: _used(w, "completion_tokens") / HOUR)],
    "Lift of the challenger": _lift("tau_overall_log_lift", WHO)[:1],
    "Alerts": [Expected(("alertstate", *ALERT_LABELS), _alerts)],
    "Drafters that get requests now": [
        Expected(("drafter", "revision", "arm", "method", "block_size"), _slots)
    ],
    "Requests left out of the statistics": [_per_hour(("arm", "reason"), _excluded)],
    "Operations on drafters": [Expected(("operation", "result"), _operations)],
}

ACCEPTANCE = {
    "Acceptance by position (S_k), time range": [
        Expected(AT, lambda w: numbers.acceptance(w, WHO))
    ],
    "Steps behind each bar": [Expected(AT, lambda w: numbers.position_moments(w, WHO, "drafted"))],
    "Acceptance by position over time": [Expected(AT, lambda w: numbers.acceptance(w, WHO))],
    "Acceptance against the break-even, with its 95 % interval": [
        RATE,
        _cut(RATE_LOW, 0, math.inf),
        _cut(RATE_HIGH, -math.inf, 1),
        RULES["dpace:break_even:rate5m"],
    ],
    "Marginal gain by position": [RULES["dpace:marginal_gain:rate5m"]],
    "Tau of the last hour, with its 95 % interval": TAU,
    "Tau of single requests": [_taus(0.1), _taus(0.5), _taus(0.9)],
    "Verification steps": [_per_hour(WHO, lambda w: numbers.moments(w, WHO, "steps"))],
    "Unsettled positions": [Expected(WHO, _unsettled)],
}

COMPARISON = {
    "Verdict": [Expected(("challenger", "revision", "decision"), _decision)],
    "Lift of the verdict": [Expected(("bound",), _effect)],
    "Lift of tau, last hour, with its 95 % interval": _lift("tau_overall_log_lift", WHO),
    "Lift of tau by workload, with its 95 % interval": _lift("tau_log_lift", WHERE),
    "Acceptance by position, challenger minus champion": [Expected(AT, _difference)],
    "Requests in the statistics": [_per_hour(WHO, lambda w: numbers.moments(w, WHO, "requests"))],
    "Share of the challengers, counted and configured": [
        Expected(
            (),
            lambda w: {(): numbers.drawn(w)["challenger",] / sum(numbers.drawn(w).values())},
            fixture="watched_split",
        ),
        Expected((), lambda w: {(): 0.5}, fixture="watched_split"),
    ],
    "Outcomes in the shadow": [_per_hour(("drafter", "outcome"), _outcomes)],
    "Chi-squared of the split": [
        RULES["dpace:arm_imbalance_replica:chi2_1h"],
        RULES["dpace:arm_imbalance:chi2_1h"],
    ],
}

WORKLOADS = {
    "Tau by workload, time range": [Expected(WHERE, lambda w: numbers.tau(w, WHERE))],
    "Tau of the last hour, with its 95 % interval": _interval(
        "dpace:tau:rate1h", "dpace:tau_se:rate1h", WHERE
    ),
    "First position accepted": [
        Expected(
            WHERE, lambda w: numbers.ratio(_steps_at_1("accepted")(w), _steps_at_1("drafted")(w))
        )
    ],
    "Requests by workload": [_per_hour(("workload",), _by_workload(_requests))],
    "Tokens by workload": [_per_hour(("workload",), _by_workload(_emitted))],
    "Steps per request": [
        Expected(
            ("workload",),
            lambda w: numbers.ratio(_by_workload(_steps)(w), _by_workload(_requests)(w)),
        )
    ],
    "Requests with an unknown workload tag": [_each(lambda w: 1 / HOUR)],
}


def _of_decoding(one: str, other: str) -> list[Expected]:
    return [
        _each(
            lambda w: (
                w.sample(f"dpace_decode_{one}_total") / w.sample(f"dpace_decode_{other}_total")
            )
        )
    ]


LOAD = {
    # Everything has been answered.
    "Requests running and waiting": [_each(lambda w: 0), _each(lambda w: 0)],
    "KV cache in use": [_each(lambda w: 0)],
    "Tokens per second": [
        _each(lambda w: _used(w, "prompt_tokens") / HOUR),
        _each(lambda w: _used(w, "completion_tokens") / HOUR),
    ],
    "Preemptions": [_each(lambda w: 0)],
    "Time of a step": _of_decoding("seconds", "steps"),
    "Batch size": _of_decoding("requests", "steps"),
    "Tokens per step and request": _of_decoding("tokens", "requests"),
    "Draft tokens per verification step (K)": [_each(_mean_drafts)],
    "Calibrated cost of a step by draft length": [RULES["dpace:step_cost:ratio5m"]],
    "Estimated speed-up over no speculation": SPEEDUP,
    "Time to the first token": [
        _latency(share, "vllm:time_to_first_token_seconds") for share in (0.5, 0.95)
    ],
    "Time per output token": [
        _latency(share, "vllm:request_time_per_output_token_seconds") for share in (0.5, 0.95)
    ],
}

PANELS: dict[str, dict[str, list[Expected]]] = {
    "overview": OVERVIEW,
    "acceptance": ACCEPTANCE,
    "comparison": COMPARISON,
    "workloads": WORKLOADS,
    "load": LOAD,
}
