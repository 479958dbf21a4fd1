"""What is decided, and for which cause."""

import dataclasses
import math

import pytest

from dpace_serve.acceptance.judgement import judge_paired
from dpace_serve.acceptance.paired_moments import PairedMoments, PairSums
from dpace_serve.acceptance.sample_ratio import SampleRatio
from dpace_serve.acceptance.split_moments import SplitMoments
from dpace_serve.acceptance.verdict import StepTime
from tests.unit.acceptance.verdict_cases import (
    HALVES,
    RULE,
    SAME_SHAPE,
    arm,
    paired,
    pairs_of,
    split,
    spread_requests,
)


def test_a_clear_gain_is_promoted():
    # tau 2.0 and 2.1: 5 % more.
    verdict = paired(lift=100)
    assert (verdict.decision, verdict.cause) == ("promote", "lift")
    assert verdict.tau.champion.estimate == 2.0
    assert verdict.tau.challenger.estimate == 2.1
    assert verdict.effect.estimate == pytest.approx(math.log(1.05))
    assert verdict.more_requests is None


def test_the_effects_interval_by_hand():
    # Residuals of b are -+10 of mean 1000 steps: sd 0.01 * sqrt(200 / 199), so SE(ln tau_b) is
    # 0.0100251 / sqrt(200) / 2.1; at n = 1000 the sequence is 3.0352 SE, here 3.3642 (n = 200).
    verdict = paired(lift=100, noise=10)
    error = 0.01 * math.sqrt(200 / 199) / math.sqrt(200) / 2.1
    assert verdict.effect.high - verdict.effect.estimate == pytest.approx(3.364 * error, rel=1e-3)


def test_a_clear_loss_is_rolled_back():
    verdict = paired(lift=-100)
    assert (verdict.decision, verdict.cause) == ("rollback", "loss")
    assert verdict.effect.estimate == pytest.approx(math.log(1.9 / 2))


@pytest.mark.parametrize("lift", [39, 0, -38])
def test_what_is_inside_the_margins_is_held_and_more_requests_cannot_decide_it(lift):
    verdict = paired(lift=lift)
    assert (verdict.decision, verdict.cause, verdict.more_requests) == ("hold", "unclear", None)


def test_a_gain_that_is_not_sure_is_held_and_says_how_many_requests_it_takes():
    verdict = paired(count=200, lift=60, noise=300)  # 3 % more, with a wide interval
    assert (verdict.decision, verdict.cause) == ("hold", "unclear")
    assert verdict.effect.high > RULE.promote_above > verdict.effect.low
    later = paired(count=2 * ((200 + verdict.more_requests) // 2), lift=60, noise=300)
    assert later.effect.low == pytest.approx(RULE.promote_above, abs=2e-4)


def test_a_loss_that_is_not_sure_is_held_and_says_how_many_requests_it_takes():
    verdict = paired(count=200, lift=-60, noise=300)
    later = paired(count=2 * ((200 + verdict.more_requests) // 2), lift=-60, noise=300)
    assert verdict.decision == "hold"
    assert later.effect.high == pytest.approx(RULE.roll_back_below, abs=2e-4)


def test_margins_of_zero_let_every_interval_without_zero_decide():
    rule = dataclasses.replace(RULE, minimum_lift=0.0, maximum_loss=0.0)
    assert paired(lift=1, noise=0, rule=rule).decision == "promote"
    assert paired(lift=-1, noise=0, rule=rule).decision == "rollback"
    assert paired(lift=0, noise=0, rule=rule).decision == "hold"


def test_equal_drafters_are_held_whatever_the_rule():
    verdict = paired(lift=0, noise=0)
    assert verdict.decision == "hold"
    assert (verdict.effect.low, verdict.effect.high) == (0.0, 0.0)
    assert "as many tokens/s as a [0.0 %, 0.0 %]" in verdict.reason


def test_drafters_that_never_guess_right_have_a_tau_of_one():
    nothing = PairedMoments(PairSums.from_pairs([(0, 9)] * 100, [(0, 9)] * 100), ())
    verdict = judge_paired(
        {"json": nothing},
        champion="a",
        challenger="b",
        rule=RULE,
        step_time=SAME_SHAPE,
        weights=None,
        num_lost=0,
    )
    assert verdict.decision == "hold"
    assert verdict.tau.champion.high == 1.0


def test_longer_steps_eat_the_gain():
    # 5 % more tokens per step, in steps that take 5 % and 10 % longer.
    assert paired(step_time=StepTime(1.05, "calibration")).effect.estimate == pytest.approx(0)
    verdict = paired(step_time=StepTime(1.1, "calibration"))
    assert verdict.decision == "rollback"
    assert verdict.tau.log_lift.estimate == pytest.approx(math.log(1.05))
    assert verdict.to_dict()["effect"]["lift"] == pytest.approx(1.05 / 1.1 - 1)


def test_without_step_times_nothing_is_decided_but_tau_is_told():
    verdict = paired(step_time=None)
    assert (verdict.decision, verdict.cause) == ("hold", "step_time_unknown")
    assert verdict.effect is None
    assert verdict.tau.log_lift.low > RULE.promote_above
    assert verdict.to_dict()["step_time"] is None


@pytest.mark.parametrize("count", [0, 99])
def test_too_few_requests_have_no_numbers(count):
    verdict = paired(count=count)
    assert (verdict.decision, verdict.cause) == ("hold", "too_little_data")
    answer = verdict.to_dict()
    assert (answer["effect"], answer["tau"], answer["positions"]) == (None, None, [])
    assert answer["requests"] == {"champion": count, "challenger": count}


def test_before_the_first_request_there_is_too_little_data():
    verdict = judge_paired(
        {},
        champion="a",
        challenger="b",
        rule=RULE,
        step_time=None,
        weights=None,
        num_lost=5,
    )
    assert (verdict.cause, verdict.requests) == ("too_little_data", (0, 0))


def test_each_arm_of_a_split_needs_its_requests():
    a, b = spread_requests(900, 1), spread_requests(99, 2)
    ratio = SampleRatio((900, 99), (0.9, 0.1))
    assert split(a, b, sample_ratio=ratio).cause == "too_little_data"
    b += spread_requests(1, 3)
    verdict = split(a, b, sample_ratio=ratio)
    assert (verdict.cause, verdict.requests) == ("unclear", (900, 100))


def test_lost_shadows_hold_what_would_be_promoted_and_the_numbers_stay():
    assert paired(num_lost=2).decision == "promote"  # 2 of 202
    verdict = paired(num_lost=3)
    assert (verdict.decision, verdict.cause) == ("hold", "lost_pairs")
    assert verdict.effect.low > RULE.promote_above
    assert "3 of 203 requests (1.5 %)" in verdict.reason


def test_lost_shadows_hold_a_loss_too_since_the_challenger_serves_nobody():
    assert paired(lift=-100, num_lost=30).decision == "hold"


def test_lost_shadows_of_any_workload_count_beside_all_pairs():
    workloads = {"json": pairs_of(200, 100), "code": pairs_of(1000, 100)}
    case = {"champion": "a", "challenger": "b", "rule": RULE, "step_time": SAME_SHAPE}
    verdict = judge_paired(workloads, **case, weights={"json": 1.0}, num_lost=12)
    assert verdict.decision == "promote"  # 12 of 1,212
    assert verdict.requests == (200, 200)


def test_a_broken_split_is_rolled_back_without_numbers():
    a, b = spread_requests(1000, 1), spread_requests(1000, 2, shift=0.5)
    assert split(a, b).decision == "promote"
    verdict = split(a, b, sample_ratio=SampleRatio((1000, 1000), (0.9, 0.1)))
    assert (verdict.decision, verdict.cause) == ("rollback", "sample_ratio_mismatch")
    answer = verdict.to_dict()
    assert (answer["effect"], answer["tau"], answer["positions"]) == (None, None, [])
    assert "[1,000, 1,000] requests where shares of [90 %, 10 %]" in verdict.reason


def test_a_broken_split_does_not_wait_for_enough_requests():
    a, b = spread_requests(111, 1), []
    verdict = split(a, b, sample_ratio=SampleRatio((111, 0), (0.9, 0.1)))
    assert verdict.cause == "sample_ratio_mismatch"


EASY, HARD = 2.0, 0.5


def arms_with(easy_a, hard_a, easy_b, hard_b):
    """Two drafters that are alike in each workload."""
    return {
        "easy": (spread_requests(easy_a, 1, EASY), spread_requests(easy_b, 2, EASY)),
        "hard": (spread_requests(hard_a, 3, HARD), spread_requests(hard_b, 4, HARD)),
    }


def test_more_of_an_easy_workload_fakes_a_win_only_without_weights():
    workloads = {
        name: SplitMoments(arm(a), arm(b)) for name, (a, b) in arms_with(500, 500, 800, 200).items()
    }
    ratio = SampleRatio((1000, 1000), HALVES)
    pooled = split([], [], workloads=workloads, sample_ratio=ratio)
    assert pooled.decision == "promote"
    weighted = split(
        [], [], workloads=workloads, sample_ratio=ratio, weights={"easy": 0.5, "hard": 0.5}
    )
    assert weighted.decision == "hold"
    assert weighted.effect.low < 0 < weighted.effect.high
    assert weighted.effect.high - weighted.effect.low < 0.1


def test_weights_make_tau_the_mean_over_workloads():
    workloads = {"json": pairs_of(100, 100), "code": pairs_of(300, -200)}
    case = {"champion": "a", "challenger": "b", "rule": RULE, "step_time": SAME_SHAPE}
    verdict = judge_paired(workloads, **case, weights={"json": 3, "code": 1}, num_lost=0)
    # 0.75 * 2.1 + 0.25 * 1.8
    assert verdict.tau.challenger.estimate == pytest.approx(2.025)
    pooled = judge_paired(workloads, **case, weights=None, num_lost=0)
    assert pooled.tau.challenger.estimate == pytest.approx((100 * 2.1 + 300 * 1.8) / 400)


def test_a_weighted_workload_needs_its_requests_and_others_are_left_out():
    workloads = {"json": pairs_of(200, 100), "code": pairs_of(40, 100)}
    case = {"champion": "a", "challenger": "b", "rule": RULE, "step_time": SAME_SHAPE}
    short = judge_paired(workloads, **case, weights={"json": 1, "code": 1}, num_lost=0)
    assert short.cause == "too_little_data"
    assert "40 paired requests in workload code; an answer needs 100" in short.reason
    absent = judge_paired(workloads, **case, weights={"json": 1, "sql": 1}, num_lost=0)
    assert "0 paired requests in workload sql" in absent.reason
    enough = judge_paired(workloads, **case, weights={"json": 1, "code": 0}, num_lost=0)
    assert (enough.decision, enough.requests) == ("promote", (200, 200))


@pytest.mark.parametrize("weights", [{}, {"json": 0.0}, {"json": -1.0}, {"json": math.nan}])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        paired(weights=weights)
