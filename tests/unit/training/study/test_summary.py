import math

import pytest

from dpace_serve.config import build_config
from dpace_serve.errors import ConfigError
from dpace_training.study.config import StudyConfig
from dpace_training.study.report import study_table
from dpace_training.study.summary import (
    RunAcceptance,
    RunResult,
    mean_across_seeds,
    ratio_across_seeds,
    study_result,
)

VALUES = {
    "base": {
        "target": "some/target",
        "output": "some/study",
        "data": {"conversations": "c.jsonl", "work": "w"},
        "drafter": {"block_size": 3},
    },
    "arms": {"dpace": {"recipe": "dpace"}, "plain": {"recipe": "uniform"}},
    "baseline": "dpace",
    "seeds": [3, 5],
    "held_out": {"greedy": {"conversations": "h.jsonl"}},
}


def config(**changes):
    return build_config(StudyConfig, VALUES | changes, source="the test")


def run(arm, seed, pairs, curve):
    accepted = sum(pair[0] for pair in pairs)
    steps = sum(pair[1] for pair in pairs)
    acceptance = RunAcceptance(pairs=pairs, accepted=(accepted, 0), drafted=(steps, 0))
    return RunResult(arm, seed, 20, 1000, {"greedy": acceptance}, curve)


RESULTS = [
    run("dpace", 3, ((4, 4), (6, 6)), {10: 1.5, 20: 2.0}),
    run("dpace", 5, ((2, 4), (3, 6)), {10: 1.1, 20: 1.5}),
    run("plain", 3, ((2, 4), (3, 6)), {10: 1.2, 20: 1.5}),
    run("plain", 5, ((1, 4), (1, 4)), {20: 1.25}),
]


def test_tau_of_an_arm_is_over_all_its_runs():
    record = study_result(config(), RESULTS)["arms"][0]["sets"]["greedy"]
    # Accepted 4 + 6 + 2 + 3 of 20 steps.
    assert record["tau"] == pytest.approx(1.75)
    assert record["tau_by_seed"] == [2.0, 1.5]
    assert record["accepted_per_position"] == [0.75, None]
    assert record["ratio"]["tau_ratio"] == 1


def test_the_ratio_is_taken_seed_by_seed():
    ratio = study_result(config(), RESULTS)["arms"][1]["sets"]["greedy"]["ratio"]
    assert ratio["by_seed"] == pytest.approx([0.75, 1.25 / 1.5], abs=1e-6)
    assert ratio["tau_ratio"] == pytest.approx(math.sqrt(0.75 * 1.25 / 1.5), abs=1e-6)
    low, high = ratio["across_seeds"]
    assert low < 0.75 < 1.25 / 1.5 < high


def test_the_curve_is_the_mean_where_all_seeds_have_a_value():
    arms = study_result(config(), RESULTS)["arms"]
    assert arms[0]["curve"] == [{"step": 10, "tau": 1.3}, {"step": 20, "tau": 1.75}]
    assert arms[1]["curve"] == [{"step": 20, "tau": 1.375}]


def test_the_interval_over_seeds_is_students():
    # ln: 0, 0.1, 0.2; mean 0.1, standard deviation 0.1, t(0.975, 2) = 4.302653.
    ratio, low, high = ratio_across_seeds([math.exp(x) for x in (0.0, 0.1, 0.2)])
    assert math.log(ratio) == pytest.approx(0.1)
    assert math.log(high) - 0.1 == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    assert 0.1 - math.log(low) == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)


def test_one_seed_gives_no_interval_over_seeds():
    ratio, low, high = ratio_across_seeds([1.2])
    assert ratio == pytest.approx(1.2)
    assert math.isnan(low)
    assert math.isnan(high)


def test_rates_of_seeds_have_the_interval_of_student_within_0_and_1():
    # Mean 0.6, deviation 0.01, two degrees of freedom.
    low, high = mean_across_seeds([0.59, 0.6, 0.61])
    assert low == pytest.approx(0.6 - 4.302653 * 0.01 / math.sqrt(3))
    assert high == pytest.approx(0.6 + 4.302653 * 0.01 / math.sqrt(3))
    assert mean_across_seeds([0.01, 0.5, 0.99]) == (0, 1)
    for rates in ([0.5], [0.5, math.nan]):
        assert all(math.isnan(bound) for bound in mean_across_seeds(rates))


def test_every_position_has_an_interval_over_the_seeds():
    for arm in study_result(config(), RESULTS)["arms"]:
        record = arm["sets"]["greedy"]
        assert len(record["accepted_across_seeds"]) == len(record["accepted_per_position"])


def test_the_table_has_a_row_for_each_arm():
    assert study_table(study_result(config(), RESULTS), "greedy").row_count == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"baseline": "chain"}, "baseline must be one of the arms, got 'chain'"),
        ({"seeds": [1, 1]}, r"seeds must differ, got \[1, 1\]"),
        ({"arms": {"../up": {}}, "baseline": "../up"}, "should match pattern"),
    ],
)
def test_a_study_that_cannot_be_is_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        config(**change)


def test_steps_of_an_arm_that_does_not_exist_are_refused():
    with pytest.raises(ConfigError, match=r"steps must name arms of the study, got \['dpase'\]"):
        config(steps={"dpase": 4})
