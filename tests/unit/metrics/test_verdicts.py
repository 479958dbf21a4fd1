"""The gauges of the verdicts: one value a decision, no lift where there is none."""

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from dpace_serve.acceptance.judgement import judge_paired
from dpace_serve.acceptance.paired_moments import PairedMoments, PairSums
from dpace_serve.acceptance.verdict import StepTime
from dpace_serve.acceptance.verdict_rule import VerdictRule
from dpace_serve.metrics.verdicts import ChallengerVerdict, VerdictMetrics

LABELS = {
    "champion": "a",
    "champion_revision": "07c4",
    "challenger": "b",
    "revision": "31de",
}


def verdict(num_pairs):
    pairs_a = [(10 + index % 3, 10) for index in range(num_pairs)]
    pairs_b = [(30 + index % 5, 10) for index in range(num_pairs)]
    moments = PairedMoments(PairSums.from_pairs(pairs_a, pairs_b), ())
    return judge_paired(
        {"other": moments},
        champion="a",
        challenger="b",
        rule=VerdictRule(0.02, 0.02, 0.95, 100, 50),
        step_time=StepTime(1.0, "same_shape"),
        weights=None,
        num_lost=0,
    )


@pytest.fixture
def rows():
    return [ChallengerVerdict("a", "07c4", "b", "31de", verdict(80))]


@pytest.fixture
def registry(rows):
    registry = CollectorRegistry()
    VerdictMetrics(registry, lambda: rows)
    return registry


def sample(registry, name, **labels):
    return registry.get_sample_value(name, {**LABELS, **labels})


def test_the_decision_is_one_and_the_others_are_zero(registry):
    values = {
        decision: sample(registry, "dpace_verdict_decision", decision=decision)
        for decision in ("promote", "hold", "rollback")
    }
    assert values == {"promote": 1.0, "hold": 0.0, "rollback": 0.0}


def test_the_lift_and_its_bounds_are_those_of_the_verdict(registry, rows):
    effect = rows[0].verdict.to_dict()["effect"]
    assert effect["low"] > 0.5
    for bound, key in (("estimate", "lift"), ("low", "low"), ("high", "high")):
        assert sample(registry, "dpace_verdict_lift", bound=bound) == effect[key]


def test_without_step_times_the_lift_is_that_of_tau(registry, rows):
    rows[0] = rows[0]._replace(verdict=replace(rows[0].verdict, effect=None))
    assert sample(registry, "dpace_verdict_lift", bound="estimate") == pytest.approx(
        rows[0].verdict.to_dict()["tau"]["lift"]
    )


def test_too_little_data_has_a_decision_but_no_lift(registry, rows):
    rows[0] = ChallengerVerdict("a", "07c4", "b", "31de", verdict(20))
    assert sample(registry, "dpace_verdict_decision", decision="hold") == 1
    assert sample(registry, "dpace_verdict_lift", bound="estimate") is None


def test_a_challenger_that_left_has_no_series(registry, rows):
    rows.clear()
    assert all(not family.samples for family in registry.collect())


def test_registering_works_no_verdict_out():
    def fail():
        raise AssertionError("a verdict was asked for")

    VerdictMetrics(CollectorRegistry(), fail)
