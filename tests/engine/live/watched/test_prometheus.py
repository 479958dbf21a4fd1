"""The shipped configuration and rules on a real service: what they say is what was counted.

Every series began at 0 while it was scraped, so Prometheus extrapolates them all by one factor:
ratios are exact, counts are a little high. Each rule by itself is in `test_rule_numbers`.
"""

import math

import pytest

from dpace_serve.metrics.names import METRICS

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

ARMS = [("dpace", "champion"), ("dflash", "shadow"), ("dflash", "challenger")]
WORKLOADS = ("code", "json", "sql")
POSITIONS = range(1, 8)
NO_SPLIT = {"dpace:arm_imbalance_replica:chi2_1h", "dpace:arm_imbalance:chi2_1h"}


def of(name, **labels):
    return f"{name}{{{', '.join(f'{label}={value!r}' for label, value in labels.items())}}}"


def factor(watched) -> float:
    """By how much `increase` over an hour is above the count."""
    counted = len(watched.counted())
    return watched.value("sum(dpace:acceptance_requests:increase1h)") / counted


def test_every_rule_could_be_evaluated(watched):
    assert watched.rules
    for rule in watched.rules:
        assert rule["health"] == "ok", (rule["name"], rule.get("lastError"))


def test_every_recording_rule_has_finite_values(watched):
    for rule in watched.rules:
        if rule["type"] == "recording" and not _is_beyond(rule):
            series = watched.ask(rule["name"])
            assert bool(series) != (rule["name"] in NO_SPLIT), rule["name"]
            assert all(math.isfinite(float(found["value"][1])) for found in series)


def test_the_only_alert_is_the_operation_that_was_refused(watched):
    firing = {rule["name"] for rule in watched.rules if rule.get("state") == "firing"}
    assert firing == {"SwapFailed"}


def test_upstream_names_have_their_colons_again(watched):
    assert watched.ask("vllm:num_requests_running")
    assert not watched.ask('{__name__=~"vllm_.+|sglang_.+"}')


@pytest.mark.parametrize("spec", METRICS, ids=lambda spec: spec.name)
def test_every_metric_is_scraped_with_its_labels(watched, spec):
    name = spec.name + ("_sum" if spec.type == "histogram" else "")
    found = watched.ask(name)
    assert found
    for series in found:
        assert set(series["metric"]) == {"__name__", "job", "model", "instance", *spec.labels}


@pytest.mark.parametrize(("drafter", "arm"), ARMS)
def test_counters_are_the_sums_of_the_records(watched, drafter, arm):
    who = {"drafter": drafter, "arm": arm}
    assert len(watched.counted(**who)) >= 8
    for position in POSITIONS:
        for what in ("drafted", "accepted"):
            name = of(f"dpace_{what}_tokens_total", **who, position=str(position))
            assert watched.value(f"sum({name})") == watched.steps_at(position, what, **who)


@pytest.mark.parametrize(("drafter", "arm"), ARMS)
def test_acceptance_by_position_is_that_of_the_records(watched, drafter, arm):
    who = {"drafter": drafter, "arm": arm}
    for position in POSITIONS:
        rate = watched.steps_at(position, "accepted", **who) / watched.steps_at(
            position, "drafted", **who
        )
        name = of("dpace:acceptance_overall:ratio5m", **who, position=str(position))
        assert watched.value(name) == pytest.approx(rate, rel=1e-9)
        for workload in WORKLOADS:
            where = {**who, "workload": workload}
            drafted = watched.steps_at(position, "drafted", **where)
            name = of("dpace:acceptance:ratio5m", **where, position=str(position))
            expected = watched.steps_at(position, "accepted", **where) / drafted
            assert watched.value(name) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("drafter", "arm"), ARMS)
@pytest.mark.parametrize("window", ["rate5m", "rate1h", "rate1d"])
def test_tau_is_that_of_the_records_in_total_and_by_workload(watched, drafter, arm, window):
    who = {"drafter": drafter, "arm": arm}
    if window != "rate1d":
        found = watched.value(of(f"dpace:tau_overall:{window}", **who))
        assert found == pytest.approx(watched.moments(**who).tau, rel=1e-9)
    for workload in WORKLOADS:
        expected = watched.moments(**who, workload=workload).tau
        found = watched.value(of(f"dpace:tau:{window}", **who, workload=workload))
        assert found == pytest.approx(expected, rel=1e-9)


def test_the_service_says_the_same_tau_and_counts(watched):
    rows = [row for row in watched.acceptance["drafters"] if "workload" not in row]
    assert {(row["drafter"], row["arm"]) for row in rows} == set(ARMS)
    for row in rows:
        who = {"drafter": row["drafter"], "arm": row["arm"]}
        assert row["tau"] == pytest.approx(
            watched.value(of("dpace:tau_overall:rate1h", **who)), rel=1e-9
        )
        for position, drafted in enumerate(row["drafted"], start=1):
            assert drafted == watched.steps_at(position, "drafted", **who)


def test_counts_are_extrapolated_a_little_and_all_alike(watched):
    found = factor(watched)
    assert 1 <= found <= watched.most_extrapolated
    for drafter, arm in ARMS:
        who = {"drafter": drafter, "arm": arm}
        moments = watched.moments(**who)
        for name, counted in {
            "requests": moments.requests,
            "accepted": moments.accepted,
            "steps": moments.steps,
            "accepted_squared": moments.accepted_squared,
            "steps_squared": moments.steps_squared,
            "accepted_steps": moments.accepted_steps,
        }.items():
            series = of(f"dpace:acceptance_{name}:increase1h", **who)
            assert watched.value(f"sum({series})") == pytest.approx(found * counted, rel=1e-9)


def standard_error(watched, **labels) -> float:
    """That of the records, with the sums and n extrapolated as Prometheus does."""
    moments, scale = watched.moments(**labels), factor(watched)
    n = moments.requests
    correction = (n * scale / (n * scale - 1)) / (n / (n - 1)) / scale
    return moments.tau_standard_error * math.sqrt(correction)


@pytest.mark.parametrize(("drafter", "arm"), ARMS)
def test_the_standard_error_of_tau_is_that_of_the_records(watched, drafter, arm):
    who = {"drafter": drafter, "arm": arm}
    found = watched.value(of("dpace:tau_overall_se:rate1h", **who))
    assert found == pytest.approx(standard_error(watched, **who), rel=1e-6)
    most = 1 / math.sqrt(watched.most_extrapolated)  # of the correction, more for few requests
    assert most**2 <= found / watched.moments(**who).tau_standard_error <= 1
    for workload in WORKLOADS:
        where = {**who, "workload": workload}
        found = watched.value(of("dpace:tau_se:rate1h", **where))
        assert found == pytest.approx(standard_error(watched, **where), rel=1e-6)


@pytest.mark.parametrize("arm", ["shadow", "challenger"])
def test_the_lift_and_its_error_are_those_of_the_records(watched, arm):
    for workload in (None, *WORKLOADS):
        where = {} if workload is None else {"workload": workload}
        rule = "dpace:tau_overall_log_lift" if workload is None else "dpace:tau_log_lift"
        ours, theirs = (
            {"drafter": "dflash", "arm": arm, **where},
            {"drafter": "dpace", "arm": "champion", **where},
        )
        taus = [watched.moments(**labels).tau for labels in (ours, theirs)]
        errors = [standard_error(watched, **labels) for labels in (ours, theirs)]
        lift = watched.value(of(f"{rule}:rate1h", **ours))
        assert lift == pytest.approx(math.log(taus[0] / taus[1]), rel=1e-6, abs=1e-9)
        error = math.hypot(errors[0] / taus[0], errors[1] / taus[1])
        assert watched.value(of(f"{rule}_se:rate1h", **ours)) == pytest.approx(error, rel=1e-6)


def test_the_speedup_is_that_of_the_counters(watched):
    plain = watched.sample("dpace_plain_decode_seconds_total")
    taken = watched.sample("dpace_calibrated_decode_seconds_total")
    assert plain > 0
    assert watched.value("dpace:speedup_estimate:rate5m") == pytest.approx(plain / taken, rel=1e-9)


def test_the_break_even_is_that_of_the_step_times_and_the_records(watched, step_ms):
    for drafter, arm in ARMS:
        who = {"drafter": drafter, "arm": arm}
        tau = 1.0
        for position in POSITIONS:
            line = tau * (step_ms[position] - step_ms[position - 1]) / step_ms[position - 1]
            name = of("dpace:break_even:rate5m", **who, position=str(position))
            assert watched.value(name) == pytest.approx(line, rel=1e-6)
            rate = watched.steps_at(position, "accepted", **who) / watched.steps_at(
                position, "drafted", **who
            )
            name = of("dpace:marginal_gain:rate5m", **who, position=str(position))
            assert watched.value(name) == pytest.approx(rate - line, rel=1e-6, abs=1e-9)
            tau += rate


def test_the_verdict_is_that_of_the_service(watched):
    (row,) = watched.verdict["comparisons"]
    assert row["requests"]["challenger"] >= row["rule"]["minimum_requests"]
    challenger = (row["challenger"]["name"], row["challenger"]["revision"])
    decisions = by_labels(watched, "dpace_verdict_decision", "decision")
    assert decisions == {
        (*challenger, decision): float(decision == row["decision"])
        for decision in ("promote", "hold", "rollback")
    }
    effect = row["effect"]
    lifts = by_labels(watched, "dpace_verdict_lift", "bound")
    assert lifts == {
        (*challenger, "estimate"): effect["lift"],
        (*challenger, "low"): effect["low"],
        (*challenger, "high"): effect["high"],
    }


def by_labels(watched, name, label) -> dict[tuple[str, str, str], float]:
    """Values by challenger, revision and one more label."""
    return {
        tuple(one["metric"][key] for key in ("challenger", "revision", label)): float(
            one["value"][1]
        )
        for one in watched.ask(name)
    }


def test_without_a_split_no_request_is_a_draw(watched):
    # Some chose the challenger, the others are the champion's.
    assert {record["arm"] for record in watched.records} == {"champion", "challenger", "shadow"}
    assert sum(sample.value for sample in watched.samples["dpace_split_requests_total"]) == 0
    assert watched.value("sum(dpace:arm_requests:increase1h)") == 0


def _is_beyond(rule) -> bool:
    """Whether a rule is for a position that the drafters do not have."""
    return int(rule.get("labels", {}).get("position", "0")) > len(POSITIONS)


def test_requests_that_chose_their_drafter_are_no_draws(watched_split):
    chosen = [r["arm"] for r in watched_split.records if "chosen" in r["request_id"]]
    assert chosen == ["challenger"] * 60
    ended = [r["arm"] for r in watched_split.records if "chosen" not in r["request_id"]]
    assert len(ended) == 120
    for arm in ("champion", "challenger"):
        name = of("dpace_split_requests_total", arm=arm)
        assert watched_split.value(name) == ended.count(arm) > 30
        assert watched_split.value(of("dpace_split_share", arm=arm)) == 0.5
    # With those, the challenger would have two thirds.
    assert watched_split.value("dpace:arm_imbalance:chi2_1h") < 20
    firing = {rule["name"] for rule in watched_split.rules if rule.get("state") == "firing"}
    assert "ArmImbalance" not in firing
