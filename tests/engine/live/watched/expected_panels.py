"""The value of every query of every panel, from the records of the server and the known traffic."""

import math

from dpace_serve.metrics.labels import REFUSAL_REASONS
from tests.engine.live.watched import numbers, panel_numbers
from tests.engine.live.watched.expected_rules import AT, RULES, Expected
from tests.engine.live.watched.numbers import WHERE, WHO, Series
from tests.engine.live.watched.watched_server import REFUSED

HOUR = 3600
"""Rates are asked for over an hour, which holds everything: the count over its seconds."""


def _each(of) -> Expected:
    """What a function gives, by replica."""
    return Expected(("instance",), lambda w: {(w.instance,): of(w)})


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
    "Tokens per second": [_one(lambda w: panel_numbers.used(w, "completion_tokens") / HOUR)],
    "Requests per second": [_one(lambda w: panel_numbers.num_answers(w) / HOUR)],
    "Alerts firing": [_one(lambda w: 1)],
    "Records lost": [_one(lambda w: 0)],
    "Estimated speed-up": SPEEDUP,
    "Tau of the last hour, with its 95 % interval": [_served(each) for each in TAU],
    "Tokens per second by replica": [
        _each(lambda w: panel_numbers.used(w, "completion_tokens") / HOUR)
    ],
    "Lift of the challenger": _lift("tau_overall_log_lift", WHO)[:1],
    "Alerts": [Expected(("alertstate", *panel_numbers.ALERT_LABELS), panel_numbers.alerts)],
    "Drafters that get requests now": [
        Expected(("drafter", "revision", "arm", "method", "block_size"), panel_numbers.slots)
    ],
    "Requests left out of the statistics": [_per_hour(("arm", "reason"), panel_numbers.excluded)],
    "Operations on drafters": [Expected(("operation", "result"), panel_numbers.operations)],
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
    "Tau of single requests": [
        Expected(WHO, panel_numbers.taus(0.1)),
        Expected(WHO, panel_numbers.taus(0.5)),
        Expected(WHO, panel_numbers.taus(0.9)),
    ],
    "Verification steps": [_per_hour(WHO, lambda w: numbers.moments(w, WHO, "steps"))],
    "Unsettled positions": [Expected(WHO, panel_numbers.unsettled)],
}

COMPARISON = {
    "Verdict": [Expected(("challenger", "revision", "decision"), panel_numbers.decision)],
    "Lift of the verdict": [Expected(("bound",), panel_numbers.effect)],
    "Lift of tau, last hour, with its 95 % interval": _lift("tau_overall_log_lift", WHO),
    "Lift of tau by workload, with its 95 % interval": _lift("tau_log_lift", WHERE),
    "Acceptance by position, challenger minus champion": [Expected(AT, panel_numbers.difference)],
    "Requests in the statistics": [_per_hour(WHO, lambda w: numbers.moments(w, WHO, "requests"))],
    "Share of the challengers, counted and configured": [
        Expected(
            (),
            lambda w: {(): numbers.drawn(w)["challenger",] / sum(numbers.drawn(w).values())},
            fixture="watched_split",
        ),
        Expected((), lambda w: {(): 0.5}, fixture="watched_split"),
    ],
    "Outcomes in the shadow": [_per_hour(("drafter", "outcome"), panel_numbers.outcomes)],
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
            WHERE,
            lambda w: numbers.ratio(
                panel_numbers.steps_at_1("accepted")(w), panel_numbers.steps_at_1("drafted")(w)
            ),
        )
    ],
    "Requests by workload": [
        _per_hour(("workload",), panel_numbers.by_workload(panel_numbers.requests))
    ],
    "Tokens by workload": [
        _per_hour(("workload",), panel_numbers.by_workload(panel_numbers.emitted))
    ],
    "Steps per request": [
        Expected(
            ("workload",),
            lambda w: numbers.ratio(
                panel_numbers.by_workload(panel_numbers.steps)(w),
                panel_numbers.by_workload(panel_numbers.requests)(w),
            ),
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
    # Everything has been answered; see test_grafana for the time before.
    "Requests running and waiting": [_each(lambda w: 0), _each(lambda w: 0)],
    "KV cache in use": [_each(lambda w: 0)],
    "Tokens per second": [
        _each(lambda w: panel_numbers.prompt_tokens(w) / HOUR),
        _each(lambda w: panel_numbers.used(w, "completion_tokens") / HOUR),
    ],
    "Preemptions": [_each(lambda w: 0)],
    "Refused requests": [
        Expected(
            ("instance", "reason"),
            lambda w: {
                (w.instance, reason): REFUSED.get(reason, 0) / HOUR for reason in REFUSAL_REASONS
            },
        )
    ],
    "Time of a step": _of_decoding("seconds", "steps"),
    "Batch size": _of_decoding("requests", "steps"),
    "Tokens per step and request": _of_decoding("tokens", "requests"),
    "Draft tokens per verification step (K)": [_each(panel_numbers.mean_drafts)],
    "Calibrated cost of a step by draft length": [RULES["dpace:step_cost:ratio5m"]],
    "Estimated speed-up over no speculation": SPEEDUP,
    "Time to the first token": [
        _each(panel_numbers.latency(share, "vllm:time_to_first_token_seconds"))
        for share in (0.5, 0.95)
    ],
    "Time per output token": [
        _each(panel_numbers.latency(share, "vllm:request_time_per_output_token_seconds"))
        for share in (0.5, 0.95)
    ],
}

PANELS: dict[str, dict[str, list[Expected]]] = {
    "overview": OVERVIEW,
    "acceptance": ACCEPTANCE,
    "comparison": COMPARISON,
    "workloads": WORKLOADS,
    "load": LOAD,
}
