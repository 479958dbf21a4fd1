"""The exporter: series from the start, exact sums, whole observations, and JSON of the same."""

import json
import random

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest

from dpace_serve.acceptance.last_step import settle_last_step
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.acceptance.shadow import ShadowSteps
from dpace_serve.acceptance.step_times import StepTimes, TimedPoint
from dpace_serve.metrics.drafters import LoadedDrafter
from dpace_serve.metrics.exporter import AcceptanceMetrics
from dpace_serve.metrics.names import EVENT_METRICS

WORKLOADS = ("json", "code")
DRAFTER = {"drafter": "dpace", "revision": "0123456789ab"}
SETTINGS = {"workloads": WORKLOADS, "method": "dflash"}


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def metrics(registry):
    return started(registry, "champion", num_draft_tokens=3)


def started(registry, *arms, num_draft_tokens, step_times=None):
    metrics = AcceptanceMetrics(
        registry, num_draft_tokens=num_draft_tokens, step_times=step_times, **SETTINGS
    )
    metrics.add_drafter(*DRAFTER.values(), 8, arms)
    metrics.set_loaded([LoadedDrafter(*DRAFTER.values(), arms[0], 8)])
    return metrics


def request(accepted, drafted, emitted_by_last_step, **labels):
    settled = settle_last_step(accepted, drafted, emitted_by_last_step)
    return RequestAcceptance(
        **(
            {"request_id": "r", "arm": "champion", "workload": "json", "finish_reason": "stop"}
            | DRAFTER
            | labels
        ),
        per_step_accepted=settled.per_step_accepted,
        per_step_drafted=settled.per_step_drafted,
        emitted_tokens=settled.emitted_tokens,
        unsettled_drafted=settled.unsettled_drafted,
        unsettled_accepted=settled.unsettled_accepted,
    )


def excluded(reason, **labels):
    given = {"request_id": "r", "arm": "champion", "workload": "json", "finish_reason": "abort"}
    return RequestAcceptance.from_exclusion(reason, **(given | DRAFTER | labels))


def shadow(accepted, drafted, unsettled, **labels):
    steps = ShadowSteps(tuple(range(len(accepted))), tuple(accepted), tuple(drafted), unsettled)
    given = {"request_id": "r", "workload": "json", "finish_reason": "stop"}
    return RequestAcceptance.from_shadow(steps, **(given | DRAFTER | labels))


def without_steps():
    return RequestAcceptance(
        "r", *DRAFTER.values(), "champion", "json", (), (), 0, 0, 0, finish_reason="stop"
    )


def sample(registry, name, **labels):
    where = DRAFTER | {"arm": "champion", "workload": "json"} | labels
    return registry.get_sample_value(name, {key: str(value) for key, value in where.items()})


def all_samples(registry):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in registry.collect()
        for sample in metric.samples
    }


def test_every_series_exists_from_the_start_with_0(registry, metrics):
    samples = all_samples(registry)
    states = {key for key in samples if key[0] in ("dpace_drafter_info", "dpace_split_share")}
    assert all(value == 0 for key, value in samples.items() if key not in states)
    # Per workload (2 and other): 2 x 3 positions, 2 kinds, 8 plain counters, and the histogram's
    # buckets 1..4, +Inf, sum and count; then 4 sums for 3 positions, 6 reasons, 4
    # operations x 5 results, 8 stages, unknown workloads, 1 info, 2 shares and 2 counts of a split,
    # 4 sums of steps.
    assert len(samples) == 3 * (6 + 2 + 8 + 7) + 12 + 6 + 20 + 8 + 1 + 1 + 2 + 2 + 4


def test_every_metric_of_the_list_is_exported_with_its_type_help_and_labels(registry):
    times = StepTimes.from_points([TimedPoint(0, 1, 0.01)])
    started(registry, "champion", "shadow", num_draft_tokens=3, step_times=times)
    exported = {metric.name: metric for metric in registry.collect()}
    assert len(exported) == len(EVENT_METRICS)
    for spec in EVENT_METRICS:
        metric = exported[spec.name.removesuffix("_total")]
        assert metric.type == spec.type
        assert metric.documentation == spec.help
        assert metric.samples
        assert all(set(s.labels) - {"le"} == set(spec.labels) for s in metric.samples)


def test_the_drafter_is_named_with_method_and_block_size(registry, metrics):
    labels = DRAFTER | {"arm": "champion", "method": "dflash", "block_size": "8"}
    assert registry.get_sample_value("dpace_drafter_info", labels) == 1


def test_created_series_are_left_out_of_ours_and_of_nobody_elses(registry, metrics):
    Counter("foreign_total", "Another package's counter.", registry=registry).inc()
    metrics.observe(request([1], [3], 2))
    lines = generate_latest(registry).decode().splitlines()
    created = [line.split()[0] for line in lines if "_created" in line and not line.startswith("#")]
    assert created == ["foreign_created"]


def test_one_request_is_counted_by_position(registry, metrics):
    # Accepted 2, 0, 3 of 3, 3, 3; the answer ended on the first token of the last step.
    metrics.observe(request([2, 0, 3], [3, 3, 3], 1))
    drafted = [sample(registry, "dpace_drafted_tokens_total", position=p) for p in (1, 2, 3)]
    accepted = [sample(registry, "dpace_accepted_tokens_total", position=p) for p in (1, 2, 3)]
    assert drafted == [3, 2, 2]
    assert accepted == [2, 1, 0]
    assert sample(registry, "dpace_drafted_tokens_total", position=0) is None
    assert sample(registry, "dpace_drafted_tokens_total", position=4) is None
    assert sample(registry, "dpace_verification_steps_total") == 3
    assert sample(registry, "dpace_emitted_tokens_total") == 5  # 3 + 1 + 1
    assert sample(registry, "dpace_unsettled_tokens_total", kind="drafted") == 2
    assert sample(registry, "dpace_unsettled_tokens_total", kind="accepted") == 2
    assert sample(registry, "dpace_acceptance_requests_total") == 1
    assert sample(registry, "dpace_acceptance_accepted_total") == 3
    assert sample(registry, "dpace_acceptance_steps_total") == 3
    assert sample(registry, "dpace_acceptance_accepted_squared_total") == 9
    assert sample(registry, "dpace_acceptance_steps_squared_total") == 9
    assert sample(registry, "dpace_acceptance_accepted_steps_total") == 9


def test_one_request_changes_only_the_series_of_its_own_arm_and_workload(registry):
    metrics = started(registry, "champion", "challenger", num_draft_tokens=3)
    before = all_samples(registry)
    metrics.observe(request([3], [3], 1))
    changed = {key for key, value in all_samples(registry).items() if value != before[key]}
    by_workload = {key for key in changed if not key[0].startswith("dpace_position_")}
    assert by_workload < changed
    assert all(("workload", "json") in labels for _, labels in by_workload)
    assert all(("arm", "champion") in labels for _, labels in changed)


def test_tau_of_each_request_falls_into_buckets_from_1_to_the_longest_step(registry, metrics):
    metrics.observe(request([0], [3], 1))  # tau 1
    metrics.observe(request([3, 0], [3, 3], 1))  # tau 2.5
    metrics.observe(request([3], [3], 4))  # tau 4
    buckets = [sample(registry, "dpace_request_tau_bucket", le=f"{le}.0") for le in (1, 2, 3, 4)]
    assert buckets == [1, 1, 2, 3]
    assert sample(registry, "dpace_request_tau_count") == 3
    assert sample(registry, "dpace_request_tau_sum") == 7.5


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (request([4], [4], 5), "num_draft_tokens = 3, got 4"),
        (request([1], [3], 2, workload="poems"), "champion and poems"),
        (request([1], [3], 2, arm="challenger"), "challenger and json"),
        (shadow([1], [3], 0), "shadow and json"),
        (request([1], [3], 2, drafter="another"), "another"),
        (request([1], [3], 2, revision="another"), "another"),
        (without_steps(), "no_step"),
        (excluded("aborted"), "not excluded .* got aborted"),
    ],
    ids=["too long", "workload", "arm", "shadow", "drafter", "revision", "no step", "excluded"],
)
def test_a_request_that_does_not_fit_is_counted_nowhere(registry, metrics, bad, message):
    metrics.observe(request([2], [3], 3))
    before, json_before = all_samples(registry), metrics.snapshot()
    with pytest.raises(ValueError, match=message):
        metrics.observe(bad)
    assert all_samples(registry) == before
    assert metrics.snapshot() == json_before


def test_the_snapshot_of_nothing_has_nulls_and_no_nan(metrics):
    snapshot = json.loads(json.dumps(metrics.snapshot(), allow_nan=False))
    assert snapshot["num_draft_tokens"] == 3
    assert snapshot["confidence"] == 0.95
    assert [row.get("workload") for row in snapshot["drafters"]] == [None, "json", "code", "other"]
    assert snapshot["drafters"][0] == DRAFTER | {
        "arm": "champion",
        "requests": 0,
        "steps": 0,
        "emitted_tokens": 0,
        "tau": None,
        "tau_low": None,
        "tau_high": None,
        "accepted_per_position": [None, None, None],
        "accepted_per_position_low": [None, None, None],
        "accepted_per_position_high": [None, None, None],
        "accepted": [0, 0, 0],
        "drafted": [0, 0, 0],
        "unsettled": {"drafted": 0, "accepted": 0},
    }


def test_the_snapshot_has_rates_tau_and_its_interval(metrics):
    metrics.observe(request([0], [3], 1))
    metrics.observe(request([2], [2], 3, workload="code"))
    total, json_row, code_row, _ = metrics.snapshot()["drafters"]
    assert total["tau"] == 2.0
    assert total["tau_low"] == pytest.approx(2 - 1.959964, abs=1e-6)  # SE 1, see test_moments
    assert total["tau_high"] == pytest.approx(2 + 1.959964, abs=1e-6)
    assert total["accepted_per_position"] == [0.5, 0.5, 0.0]
    assert code_row["accepted_per_position"] == [1.0, 1.0, None]
    assert (json_row["tau"], json_row["tau_low"]) == (1.0, None)


def random_request(generator, num_draft_tokens):
    drafted = [generator.randint(1, num_draft_tokens) for _ in range(generator.randint(1, 40))]
    accepted = [generator.randint(0, length) for length in drafted]
    return request(
        accepted,
        drafted,
        generator.randint(1, accepted[-1] + 1),
        arm=generator.choice(["champion", "challenger"]),
        workload=generator.choice(["json", "code", "other"]),
    )


PLAIN = {
    "dpace_verification_steps_total": lambda r: r.steps,
    "dpace_emitted_tokens_total": lambda r: r.emitted_tokens,
    "dpace_acceptance_requests_total": lambda r: 1,
    "dpace_acceptance_accepted_total": lambda r: r.accepted,
    "dpace_acceptance_steps_total": lambda r: r.steps,
    "dpace_acceptance_accepted_squared_total": lambda r: r.accepted**2,
    "dpace_acceptance_steps_squared_total": lambda r: r.steps**2,
    "dpace_acceptance_accepted_steps_total": lambda r: r.accepted * r.steps,
    "dpace_request_tau_count": lambda r: 1,
}


def test_records_series_and_snapshot_have_exactly_the_same_sums(registry):
    metrics = started(registry, "champion", "challenger", num_draft_tokens=7)
    generator = random.Random(20)
    requests = [random_request(generator, 7) for _ in range(500)]
    for each in requests:
        metrics.observe(each)
    rows = {(row["arm"], row.get("workload")): row for row in metrics.snapshot()["drafters"]}
    assert len(rows) == 2 * 4
    for (arm, workload), row in rows.items():
        mine = [r for r in requests if r.arm == arm and workload in (None, r.workload)]
        accepted = [sum(a >= p for r in mine for a in r.per_step_accepted) for p in range(1, 8)]
        drafted = [sum(d >= p for r in mine for d in r.per_step_drafted) for p in range(1, 8)]
        assert row["accepted"] == accepted
        assert row["drafted"] == drafted
        assert row["accepted_per_position"] == [accepted[p] / drafted[p] for p in range(7)]
        assert row["requests"] == len(mine)
        assert row["steps"] == sum(r.steps for r in mine)
        assert row["emitted_tokens"] == sum(r.emitted_tokens for r in mine)
        assert row["unsettled"] == {
            "drafted": sum(r.unsettled_drafted for r in mine),
            "accepted": sum(r.unsettled_accepted for r in mine),
        }
        if workload is None:
            continue
        where = {"arm": arm, "workload": workload}
        for name, value_of in PLAIN.items():
            assert sample(registry, name, **where) == sum(value_of(r) for r in mine)
        for kind, unsettled in row["unsettled"].items():
            assert sample(registry, "dpace_unsettled_tokens_total", kind=kind, **where) == unsettled
        for p in range(1, 8):
            at = {"position": p, **where}
            assert sample(registry, "dpace_drafted_tokens_total", **at) == drafted[p - 1]
            assert sample(registry, "dpace_accepted_tokens_total", **at) == accepted[p - 1]


def test_metrics_without_a_draft_token_are_refused(registry):
    with pytest.raises(ValueError, match="at least 1 draft token, got 0"):
        AcceptanceMetrics(registry, num_draft_tokens=0, **SETTINGS)
