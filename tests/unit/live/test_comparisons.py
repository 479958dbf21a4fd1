"""Verdicts of a server: from which requests, by whom, and when they begin anew."""

import itertools

import pytest

from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.acceptance.sample_ratio import SampleRatio
from dpace_serve.acceptance.verdict import StepTime
from dpace_serve.acceptance.verdict_rule import VerdictRule
from dpace_serve.live.comparison import Terms
from dpace_serve.live.comparisons import Comparisons
from dpace_serve.live.hosted import Candidate, Role
from dpace_serve.live.verdict_history import MAX_POINTS

RULE = VerdictRule(
    minimum_lift=0.02, maximum_loss=0.02, confidence=0.95, planned_requests=100, minimum_requests=50
)
DRAFTED = 7
GOOD, BAD = (5, 6, 5, 4, 6), (1, 2, 1, 1, 0)


SAME_SHAPE = StepTime(1.0, "same_shape")


def terms(step_time=SAME_SHAPE, weights=None, num_steps=dict):
    ticks = itertools.count(1000.0)
    return Terms(
        RULE,
        weights=weights,
        num_draft_tokens=DRAFTED,
        step_time=step_time if callable(step_time) else lambda *_: step_time,
        num_steps=num_steps,
        clock=lambda: next(ticks),
    )


def record(drafter, arm, accepted, *, request_id="r", excluded=None, workload="json"):
    if excluded is not None:
        return RequestAcceptance.from_exclusion(
            excluded, request_id=request_id, drafter=drafter, revision="r1", arm=arm,
            workload=workload, finish_reason="stop",
        )  # fmt: skip
    return RequestAcceptance(
        request_id=request_id,
        drafter=drafter,
        revision="r1",
        arm=arm,
        workload=workload,
        per_step_accepted=tuple(accepted),
        per_step_drafted=(DRAFTED,) * len(accepted),
        emitted_tokens=0 if arm == "shadow" else sum(accepted) + len(accepted),
        unsettled_drafted=0,
        unsettled_accepted=0,
        finish_reason="stop",
    )


def steps_of(base, number):
    """The steps of request `number`: not all alike, so that there is something to be unsure of."""
    return base[number % len(base) :] + base[: 1 + number % 3]


def shadow_some(comparisons, fleet, number, *, of_a=BAD, of_b=GOOD, workload="json"):
    for index in range(number):
        assignment = fleet.assign(f"r{index}", wanted=None, may_shadow=True)
        served = record("a", "champion", steps_of(of_a, index), workload=workload)
        shadow = record("b", "shadow", steps_of(of_b, index), workload=workload)
        comparisons.add_served(assignment, served)
        comparisons.add_shadow(assignment, served, shadow)
        fleet.release(assignment)


def only(comparisons):
    (row,) = comparisons.to_dict()["comparisons"]
    return row


def test_without_a_challenger_there_is_nothing_to_compare(fleet):
    answer = Comparisons(fleet(), terms()).to_dict()
    assert answer["champion"] == {"name": "a", "revision": "r1"}
    assert answer["comparisons"] == []


def test_a_challenger_is_judged_on_the_requests_that_it_shadowed(fleet):
    hosted = fleet("b")
    comparisons = Comparisons(hosted, terms())
    shadow_some(comparisons, hosted, 49)
    assert only(comparisons)["cause"] == "too_little_data"
    assert only(comparisons)["effect"] is None
    shadow_some(comparisons, hosted, 31)
    row = only(comparisons)
    assert row["challenger"] == {"name": "b", "revision": "r1"}
    assert (row["design"], row["decision"], row["cause"]) == ("paired", "promote", "lift")
    assert row["requests"] == {"champion": 80, "challenger": 80}
    assert row["tau"]["champion"]["tau"] < row["tau"]["challenger"]["tau"]
    assert row["effect"]["lift"] == pytest.approx(row["tau"]["lift"])
    # At 3 and 4 one always and the other never accepts, at 7 neither does: no error is known there.
    assert [position["position"] for position in row["positions"]] == [1, 2, 5, 6]


def test_a_worse_challenger_is_rolled_back(fleet):
    hosted = fleet("b")
    comparisons = Comparisons(hosted, terms())
    shadow_some(comparisons, hosted, 80, of_a=GOOD, of_b=BAD)
    assert (only(comparisons)["decision"], only(comparisons)["cause"]) == ("rollback", "loss")


def test_without_step_times_tau_is_told_and_nothing_decided(fleet):
    hosted = fleet("b")
    comparisons = Comparisons(hosted, terms(step_time=None))
    shadow_some(comparisons, hosted, 80)
    row = only(comparisons)
    assert (row["decision"], row["cause"]) == ("hold", "step_time_unknown")
    assert row["effect"] is None
    assert row["tau"]["lift"] > 0.5
    assert row["history"][-1]["lift"] == pytest.approx(row["tau"]["lift"])


def test_lost_shadows_are_counted_and_stop_a_decision(fleet):
    hosted = fleet("b")
    comparisons = Comparisons(hosted, terms())
    shadow_some(comparisons, hosted, 80)
    for index in range(3):
        assignment = hosted.assign(f"lost{index}", wanted=None, may_shadow=True)
        served = record("a", "champion", GOOD)
        comparisons.add_shadow(assignment, served, record("b", "shadow", (), excluded="no_shadow"))
    assert (only(comparisons)["decision"], only(comparisons)["cause"]) == ("hold", "lost_pairs")


@pytest.mark.parametrize("reason", ["aborted", "no_step"])
def test_what_is_excluded_is_neither_a_pair_nor_lost(fleet, reason):
    hosted = fleet("b")
    comparisons = Comparisons(hosted, terms())
    shadow_some(comparisons, hosted, 80)
    before = only(comparisons)
    for _ in range(50):
        assignment = hosted.assign("r", wanted=None, may_shadow=True)
        shadow = record("b", "shadow", (), excluded=reason)
        served = (
            record("a", "champion", (), excluded="aborted")
            if reason == "aborted"
            else (record("a", "champion", GOOD))
        )
        comparisons.add_shadow(assignment, served, shadow)
    after = only(comparisons)
    assert (after["requests"], after["cause"]) == (before["requests"], before["cause"])


def split_some(comparisons, fleet, number, *, wanted=None, of_a=BAD, of_b=GOOD):
    for index in range(number):
        assignment = fleet.assign(f"r{index}", wanted=wanted, may_shadow=False)
        name, arm = assignment.serving.drafter.name, assignment.serving.arm
        steps = {"a": of_a, "b": of_b, "c": of_b}[name]
        comparisons.add_served(assignment, record(name, arm, steps_of(steps, index)))
        fleet.release(assignment)


def test_in_split_mode_each_arm_has_its_own_requests(fleet):
    hosted = fleet("b", mode="split", share=0.4)
    comparisons = Comparisons(hosted, terms())
    split_some(comparisons, hosted, 400)
    row = only(comparisons)
    assert (row["design"], row["decision"]) == ("split", "promote")
    assert sum(row["requests"].values()) == 400
    assert row["requests"]["challenger"] == pytest.approx(160, abs=40)


def test_requests_that_chose_their_drafter_are_left_out(fleet):
    hosted = fleet("b", mode="split", share=0.4)
    comparisons = Comparisons(hosted, terms())
    split_some(comparisons, hosted, 300, wanted="b")
    assert only(comparisons)["requests"] == {"champion": 0, "challenger": 0}


def test_a_split_that_is_not_as_configured_is_an_answer_of_its_own(fleet):
    hosted = fleet("b", mode="split", share=0.4)
    comparisons = Comparisons(hosted, terms())
    for index in range(300):
        assignment = hosted.assign(f"r{index}", wanted=None, may_shadow=False)
        if assignment.serving.drafter.name == "a":  # those of b are lost somewhere
            comparisons.add_served(assignment, record("a", "champion", steps_of(GOOD, index)))
    row = only(comparisons)
    assert row["cause"] == "sample_ratio_mismatch"
    assert (row["effect"], row["tau"], row["positions"]) == (None, None, [])


def test_a_split_that_was_not_as_configured_stays_so_until_it_begins_anew(fleet):
    hosted = fleet("b", mode="split", share=0.4)
    comparisons = Comparisons(hosted, terms())
    for index in range(300):
        assignment = hosted.assign(f"r{index}", wanted=None, may_shadow=False)
        if assignment.serving.drafter.name == "a" or index % 2:  # half of those of b are lost
            name, arm = assignment.serving.drafter.name, assignment.serving.arm
            comparisons.add_served(assignment, record(name, arm, steps_of(GOOD, index)))
    alarm = only(comparisons)
    assert alarm["cause"] == "sample_ratio_mismatch"
    split_some(comparisons, hosted, 6_000)  # healthy again, and the biased ones still in the sums
    row = only(comparisons)
    total = SampleRatio(tuple(row["requests"].values()), (0.6, 0.4))
    assert not total.is_mismatch
    assert (row["cause"], row["reason"]) == ("sample_ratio_mismatch", alarm["reason"])


def test_step_times_are_those_of_the_steps_since_the_comparison_began(fleet):
    steps = {1: 1000, 4: 10}
    seen = []

    def step_time(rivals, num_steps):
        seen.append(num_steps)
        return SAME_SHAPE

    hosted = fleet("b")
    comparisons = Comparisons(hosted, terms(step_time, num_steps=lambda: steps))
    steps = {1: 1000, 4: 60, 16: 5}
    shadow_some(comparisons, hosted, 60)
    only(comparisons)
    assert seen[-1] == {1: 0, 4: 50, 16: 5}


def test_several_challengers_are_judged_each_for_itself(fleet):
    hosted = fleet("b", "c", mode="split", share=0.3)
    comparisons = Comparisons(hosted, terms())
    split_some(comparisons, hosted, 400)
    rows = comparisons.to_dict()["comparisons"]
    assert [row["challenger"]["name"] for row in rows] == ["b", "c"]
    assert all(row["decision"] == "promote" for row in rows)
    assert rows[0]["requests"]["champion"] == rows[1]["requests"]["champion"]


def test_a_promotion_begins_anew_and_late_requests_do_not_count(fleet):
    hosted = fleet("b", "c")
    comparisons = Comparisons(hosted, terms())
    shadow_some(comparisons, hosted, 60)
    late = hosted.assign("late", wanted=None, may_shadow=True)
    hosted.promote("b")
    comparisons.refresh()
    (row,) = comparisons.to_dict()["comparisons"]
    assert comparisons.to_dict()["champion"]["name"] == "b"
    assert (row["challenger"]["name"], row["requests"]["challenger"]) == ("c", 0)
    assert row["since"] > 1000
    served = record("a", "champion", GOOD)
    comparisons.add_shadow(late, served, record("c", "shadow", GOOD))
    assert comparisons.to_dict()["comparisons"][0]["requests"]["challenger"] == 0


def test_another_challenger_does_not_disturb_a_shadow_but_a_split(fleet):
    for mode, expected in (("shadow", 60), ("split", 0)):
        hosted = fleet("b", mode=mode, share=0.4, spare=1)
        comparisons = Comparisons(hosted, terms())
        if mode == "shadow":
            shadow_some(comparisons, hosted, 60)
        else:
            split_some(comparisons, hosted, 200)
        config = hosted._slots[0].shape
        number = hosted.reserve(config)
        hosted.install(
            number, Candidate("c", "r1", hosted.champion.folder, config), Role.CHALLENGER
        )
        comparisons.refresh()
        rows = comparisons.to_dict()["comparisons"]
        assert [row["challenger"]["name"] for row in rows] == ["b", "c"]
        assert rows[0]["requests"]["challenger"] == expected


def test_a_challenger_that_left_and_came_back_begins_anew(fleet):
    hosted = fleet("b")
    comparisons = Comparisons(hosted, terms())
    shadow_some(comparisons, hosted, 60)
    running = hosted.assign("running", wanted=None, may_shadow=True)
    slot = hosted.drop("b")
    comparisons.refresh()
    assert comparisons.to_dict()["comparisons"] == []
    hosted.reinstate(slot, Role.CHALLENGER)
    comparisons.refresh()
    comparisons.add_shadow(running, record("a", "champion", GOOD), record("b", "shadow", GOOD))
    assert only(comparisons)["requests"]["challenger"] == 0


def test_weights_of_workloads_reach_the_verdict(fleet):
    hosted = fleet("b")
    comparisons = Comparisons(hosted, terms(weights={"json": 1.0, "code": 1.0}))
    shadow_some(comparisons, hosted, 80)
    assert only(comparisons)["cause"] == "too_little_data"
    shadow_some(comparisons, hosted, 60, workload="code")
    assert only(comparisons)["decision"] == "promote"


def test_the_history_stays_bounded_and_spans_all_requests(fleet):
    hosted = fleet("b")
    comparisons = Comparisons(hosted, terms())
    shadow_some(comparisons, hosted, 1000)
    history = only(comparisons)["history"]
    requests = [point["requests"] for point in history]
    assert MAX_POINTS / 2 <= len(history) <= MAX_POINTS
    assert requests[0] == 50
    assert requests[-1] > 1000 - 1000 / MAX_POINTS * 4
    gaps = {after - before for before, after in itertools.pairwise(requests)}
    assert max(gaps) <= 16
    assert all(point["low"] <= point["lift"] <= point["high"] for point in history)
