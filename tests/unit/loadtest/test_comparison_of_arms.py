"""Arms against the baseline: ratios and intervals by hand, and how often they are right."""

import math
import random

import pytest

from dpace_loadtest.comparison_of_arms import compare_arms

from .made_rows import joined, row  # noqa: TID252 - tests have no package


def ask(arm, prompt, *, seconds=1.0, tokens=10, accepted=None, **others):
    one = row(
        arm=arm,
        prompt_key=prompt,
        seconds=seconds,
        ttft=others.pop("ttft", seconds / 10),
        tokens=tokens,
        response_id=f"{arm}-{prompt}-{others.get('round', 0)}",
        **{"session": int.from_bytes(prompt.encode(), "big"), **others},
    )
    return joined(one, accepted)


def compared(requests, metric="tokens_per_second", workload=None):
    (one,) = [
        each
        for each in compare_arms(requests, ["a", "b"], "a")
        if each.metric == metric and each.workload == workload
    ]
    return one


def test_paired_ratio_and_interval_by_hand():
    # b takes 1/2, 1/4 and 1/8 of the time of a, whatever the prompt: ln ratios 1, 2, 3 times ln 2.
    requests = [ask("a", p, seconds=s) for p, s in {"x": 1.0, "y": 3.0, "z": 9.0}.items()]
    requests += [ask("b", p, seconds=s) for p, s in {"x": 0.5, "y": 0.75, "z": 1.125}.items()]
    one = compared(requests)
    assert (one.design, one.num_units, one.num_left_out) == ("paired", 3, 0)
    assert one.ratio == pytest.approx(4.0)
    # sd = ln 2, SE = ln 2 / sqrt 3, t(2) = 4.30265
    factor = 2 ** (4.30265 / math.sqrt(3))
    assert one.low == pytest.approx(4 / factor, rel=1e-5)
    assert one.high == pytest.approx(4 * factor, rel=1e-5)


def test_times_are_turned_so_that_above_1_the_arm_is_better():
    requests = [ask("a", p, seconds=2.0) for p in "xyz"] + [ask("b", p, seconds=1.0) for p in "xyz"]
    for metric in ("tokens_per_second", "tpot", "ttft"):
        assert compared(requests, metric).ratio == pytest.approx(2.0)


def test_rounds_of_a_prompt_are_one_value_however_many():
    requests = [ask("a", p, seconds=1.0) for p in "xy"]
    requests += [ask("b", "x", seconds=0.5, round=n) for n in range(5)]
    requests += [ask("b", "y", seconds=2.0)]
    one = compared(requests)
    assert one.num_units == 2
    assert one.ratio == pytest.approx(1.0)  # twice as fast on x, half as fast on y
    # Within a prompt the mean is geometric: 4 and 1 make 2.
    requests = [ask("a", p) for p in "xy"]
    requests += [ask("b", p, seconds=s, round=n) for p in "xy" for n, s in enumerate((0.25, 1.0))]
    assert compared(requests).ratio == pytest.approx(2.0)


def test_turns_of_one_conversation_are_one_unit():
    turns = [("x0", 0, 1), ("x1", 1, 1), ("y0", 0, 2), ("y1", 1, 2)]
    requests = [
        ask(arm, prompt, seconds=seconds, turn=turn, session=session)
        for arm, seconds in (("a", 1.0), ("b", 0.5))
        for prompt, turn, session in turns
    ]
    assert compared(requests).num_units == 2


def test_prompts_of_one_arm_only_are_counted_and_left_out():
    requests = [ask("a", p) for p in "vwxyz"] + [ask("b", p, seconds=0.5) for p in "wxyu"]
    one = compared(requests)
    assert (one.num_units, one.num_left_out) == (3, 3)  # v, z and u
    assert one.ratio == pytest.approx(2.0)


def test_without_pairs_it_is_welch_by_hand():
    # ln seconds: a 0 and 2, b 0 and 1 (of e); tokens/s are turned.
    requests = [ask("a", "p", seconds=1.0), ask("a", "q", seconds=math.e**2)]
    requests += [ask("b", "r", seconds=1.0), ask("b", "s", seconds=math.e)]
    one = compared(requests)
    assert (one.design, one.num_units) == ("unpaired", 2)
    # Means -1 and -0.5; variances 2 and 0.5, SE^2 = 1 + 0.25;
    # degrees = 1.25^2 / (1 + 0.0625) = 1.47, rounded down to 1.
    assert math.log(one.ratio) == pytest.approx(0.5)
    reach = 12.7062 * math.sqrt(1.25)
    assert math.log(one.low) == pytest.approx(0.5 - reach, rel=1e-4)
    assert math.log(one.high) == pytest.approx(0.5 + reach, rel=1e-4)


def test_one_pair_has_a_ratio_and_no_interval():
    one = compared([ask("a", "x", seconds=1.0), ask("b", "x", seconds=0.5)])
    assert one.ratio == pytest.approx(2.0)
    assert (one.low, one.high) == (None, None)


def test_tau_is_pooled_over_the_same_prompts():
    # a: 4 accepted in 4 steps, tau 2; b: 9 in 3, tau 4.
    requests = [ask("a", "x", accepted=(1, 1)), ask("a", "y", accepted=(0, 2))]
    requests += [ask("b", "x", accepted=(3,)), ask("b", "y", accepted=(3, 3))]
    one = compared(requests, "tau")
    assert (one.design, one.num_units) == ("paired", 2)
    assert one.ratio == pytest.approx(2.0)
    # b is 3 per step everywhere and a 1 per step everywhere: no request differs from another.
    assert (one.low, one.high) == (pytest.approx(2.0), pytest.approx(2.0))


def test_tau_interval_by_hand():
    # a: (y, m) = (2, 1), (0, 1); r = 1, tau 2. b: (1, 1), (1, 1); r = 1, tau 2.
    requests = [ask("a", "x", accepted=(2,)), ask("a", "y", accepted=(0,))]
    requests += [ask("b", "x", accepted=(1,)), ask("b", "y", accepted=(1,))]
    one = compared(requests, "tau")
    assert one.ratio == pytest.approx(1.0)
    # d = -(y_a - r m_a) / (mean m_a * tau_a) = -1/2 and 1/2; SE = sd / sqrt 2 = 1/2; t(1) = 12.7062
    assert math.log(one.high) == pytest.approx(12.7062 / 2, rel=1e-4)


def test_without_records_tau_is_not_compared_and_excluded_ones_do_not_count():
    requests = [ask(arm, p) for arm in "ab" for p in "xyz"]
    assert compared(requests, "tau").ratio is None
    requests = [
        *(ask("a", p, accepted=(1,)) for p in "xy"),
        joined(row(arm="b", prompt_key="x"), (1,), excluded="aborted"),
        ask("b", "y", accepted=(3,)),
    ]
    one = compared(requests, "tau")
    assert (one.design, one.num_units, one.ratio) == ("unpaired", 1, 2.0)


def test_warm_up_and_failures_take_no_part():
    requests = [ask("a", p) for p in "xy"] + [ask("b", p, seconds=0.5) for p in "xy"]
    requests.append(ask("b", "x", seconds=0.001, phase="warm_up", round=1))
    requests.append(ask("b", "x", seconds=0.001, outcome="cut", round=2))
    assert compared(requests).ratio == pytest.approx(2.0)


def test_arms_are_compared_where_both_have_a_load_and_by_workload():
    requests = [ask("a", p, load=load, workload=w) for p, w in ("xc", "ys") for load in (1.0, 2.0)]
    requests += [ask("b", p, load=load, workload=w) for p, w in ("xc", "ys") for load in (2.0, 4.0)]
    found = compare_arms(requests, ["a", "b"], "a")
    assert {(one.load, one.workload) for one in found} == {(2.0, None), (2.0, "c"), (2.0, "s")}
    assert compare_arms(requests, ["a", "b"], "b")[0].arm == "a"


@pytest.mark.parametrize("is_paired", [True, False])
def test_intervals_cover_the_truth_as_often_as_they_say(is_paired):
    """400 runs of 12 prompts whose difficulty spreads widely; the truth is 1.3 times as fast."""
    numbers = random.Random(11)
    num_covered, widths = 0, []
    for _ in range(400):
        requests = []
        for prompt in range(12):
            for arm, speed in (("a", 1.0), ("b", 1.3)):
                if arm == "a" or not is_paired:
                    difficulty = math.exp(numbers.gauss(0, 0.8))
                seconds = difficulty / speed * math.exp(numbers.gauss(0, 0.1))
                key = str(prompt) if is_paired else f"{arm}{prompt}"
                requests.append(ask(arm, key, seconds=seconds))
        one = compared(requests)
        num_covered += one.low <= 1.3 <= one.high
        widths.append(math.log(one.high / one.low))
    # 95 % of 400 is 380 with a standard deviation of 4.4.
    assert 364 <= num_covered <= 395
    # Pairing takes the difficulty of the prompts out: 0.1 * sqrt 2 is left of 0.8 * sqrt 2.
    assert (sum(widths) / len(widths) < 0.25) is is_paired
