"""What a verdict says: positions, JSON, the sentence; and what it refuses."""

import dataclasses
import json
import math

import pytest

from dpace_serve.acceptance.judgement import judge_paired
from dpace_serve.acceptance.paired_moments import PairSums
from dpace_serve.acceptance.sample_ratio import SampleRatio
from dpace_serve.acceptance.verdict import StepTime
from tests.unit.acceptance.verdict_cases import (
    RULE,
    SAME_SHAPE,
    paired,
    pairs_of,
    split,
    spread_requests,
)


def position_sums(count, rate_a, rate_b):
    """Pairs with 10 steps each that all accept alike, but for one step in half of the requests."""
    a = [(rate_a + i % 2, 10) for i in range(count)]
    b = [(rate_b + i % 2, 10) for i in range(count)]
    return PairSums.from_pairs(a, b)


def test_positions_are_told_with_intervals_that_hold_together():
    sums = (position_sums(200, 8, 9), position_sums(200, 5, 5), position_sums(99, 2, 3))
    shift = PairSums.from_pairs([(5, 10), (7, 10)] * 100, [(7, 10), (5, 10)] * 100)
    case = {
        "champion": "a",
        "challenger": "b",
        "rule": RULE,
        "step_time": SAME_SHAPE,
        "weights": None,
        "num_lost": 0,
    }
    moments = pairs_of(200, 100, positions=(*sums, shift))
    verdict = judge_paired({"json": moments}, **case)
    first, second, fourth = verdict.positions  # the third has 99 requests
    assert (first.position, second.position, fourth.position) == (1, 2, 4)
    assert (first.champion, first.challenger) == (0.85, 0.95)
    assert first.difference.estimate == pytest.approx(0.1)
    assert first.difference.high == pytest.approx(0.1)  # they vary alike
    # d_i = -+0.2; alpha is 0.05 / 4 = 0.0125 whatever is shown: 2 * 4.382 = 8.764 and
    # rho^2 = 11.043 / 1000, so at n = 200 it is sqrt(3.2086 / 2.2086 * (8.764 + ln 3.2086)).
    error = 0.2 * math.sqrt(200 / 199) / math.sqrt(200)
    factor = math.sqrt(3.2086 / 2.2086 * (8.764 + 1.1658))
    assert fourth.difference.high == pytest.approx(factor * error, rel=1e-3)


@pytest.mark.parametrize(("rate", "is_told"), [(0, False), (10, False), (4, True)])
def test_a_position_without_any_spread_has_no_error_that_is_known(rate, is_told):
    same = PairSums.from_pairs([(rate, 10)] * 200, [(rate, 10)] * 200)
    zero_and_some = PairSums.from_pairs([(0, 10)] * 200, [(3, 10), (5, 10)] * 100)
    moments = pairs_of(200, 100, positions=(same, zero_and_some))
    verdict = judge_paired(
        {"json": moments},
        champion="a",
        challenger="b",
        rule=RULE,
        step_time=SAME_SHAPE,
        weights=None,
        num_lost=0,
    )
    assert [told.position for told in verdict.positions] == ([1, 2] if is_told else [2])


def test_the_answer_is_json_with_the_agreed_keys():
    moments = pairs_of(200, 100, noise=10, positions=(position_sums(200, 8, 9),))
    verdict = judge_paired(
        {"json": moments},
        champion="a",
        challenger="b",
        rule=RULE,
        step_time=SAME_SHAPE,
        weights=None,
        num_lost=0,
    )
    answer = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    reach = 3.3642 * 0.01 * math.sqrt(200 / 199) / math.sqrt(200) / 2.1
    low, high = 1.05 * math.exp(-reach) - 1, 1.05 * math.exp(reach) - 1
    effect = answer.pop("effect")
    assert effect.pop("of") == "tokens_per_second"
    assert effect == pytest.approx({"lift": 0.05, "low": low, "high": high}, rel=1e-4)
    tau = answer.pop("tau")
    assert tau["champion"] == {"tau": 2.0, "low": 2.0, "high": 2.0}
    assert set(tau) == {"champion", "challenger", "lift", "low", "high"}
    (position,) = answer.pop("positions")
    assert set(position) == {"position", "champion", "challenger", "difference", "low", "high"}
    assert answer == {
        "design": "paired",
        "decision": "promote",
        "cause": "lift",
        "reason": verdict.reason,
        "requests": {"champion": 200, "challenger": 200},
        "step_time": {"ratio": 1.0, "source": "same_shape"},
        "more_requests": None,
        "rule": {
            "minimum_lift": 0.02,
            "maximum_loss": 0.02,
            "confidence": 0.95,
            "planned_requests": 1000,
            "minimum_requests": 100,
        },
    }


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (
            paired(count=1200, lift=86, noise=150),
            "b makes 4.3 % more tokens/s than a [3.6 %, 5.0 %] over 1,200 paired requests; "
            "more than 2 % was asked for.",
        ),
        (
            paired(lift=-100, noise=150),
            "b makes 5.0 % fewer tokens/s than a [-6.8 %, -3.2 %] over 200 paired requests; "
            "at most 1.96 % fewer is allowed.",
        ),
        (
            paired(lift=10, noise=150),
            "b makes 0.5 % more tokens/s than a [-1.3 %, 2.3 %] over 200 paired requests; "
            "a decision needs an interval that lies below -1.96 % or above 2 %.",
        ),
        (
            paired(count=12),
            "There are 12 paired requests; an answer needs 100.",
        ),
        (
            paired(step_time=None),
            "b makes 5.0 % more tokens per step than a [4.9 %, 5.1 %] over 200 paired requests; "
            "how long its steps take is not known, so tokens/s are not known either.",
        ),
        (
            split(spread_requests(5, 1), spread_requests(4, 2)),
            "There are 4 requests of the challenger and 5 of the champion; an answer needs 100 "
            "of each.",
        ),
    ],
)
def test_the_reason_is_a_sentence_with_the_numbers(verdict, reason):
    assert verdict.reason == reason


def test_the_reason_says_when_a_decision_may_come_and_whose_requests_are_short():
    verdict = paired(count=200, lift=60, noise=300)
    about = round(verdict.more_requests, 2 - len(str(verdict.more_requests)))
    assert verdict.reason.endswith(f"above 2 %, in about {about:,} more paired requests.")
    a, b = spread_requests(900, 1), spread_requests(100, 2, shift=0.2)
    verdict = split(a, b, sample_ratio=SampleRatio((900, 100), (0.9, 0.1)))
    assert "over 100 requests against 900;" in verdict.reason
    assert verdict.reason.endswith("more requests of b.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minimum_lift": -0.01}, "shares of 0 or more"),
        ({"maximum_loss": math.inf}, "shares of 0 or more"),
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"minimum_requests": 49}, "at least 50"),
        ({"planned_requests": 99}, "at least minimum_requests = 100"),
    ],
)
def test_a_rule_that_cannot_be_kept_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RULE, **changes)


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.nan, math.inf])
def test_a_step_time_that_is_none_is_refused(ratio):
    with pytest.raises(ValueError, match="above 0"):
        StepTime(ratio, "calibration")


def test_negative_losses_are_refused():
    with pytest.raises(ValueError, match="num_lost"):
        paired(num_lost=-1)


def test_a_plan_for_millions_after_fifty_requests_still_gives_finite_numbers():
    rule = dataclasses.replace(RULE, planned_requests=10**9, minimum_requests=50)
    a = [(0, 1)] * 49 + [(1000, 1)]
    verdict = split(a, a[::-1], rule=rule)
    assert verdict.effect.high > 1000  # whose exponential no float can hold
    json.dumps(verdict.to_dict(), allow_nan=False)
