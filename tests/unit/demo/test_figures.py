import math

import pytest

from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.demo.acceptance_rows import AcceptanceRows
from dpace_serve.demo.figures import (
    ArmRun,
    arm_figures,
    num_right,
    paired_figures,
    tokens_are_comparable,
)
from dpace_serve.demo.prompts import DemoPrompt
from dpace_serve.demo.traffic import Answer
from dpace_serve.errors import EngineError

PROMPTS = [
    DemoPrompt("json", 0, "q", is_chat=True, expected="right"),
    DemoPrompt("code", 0, "q", is_chat=False, expected=None),
]


def answer(*, text="right", token_ids=(1, 2, 3, 4), completion_tokens=4, seconds=1.0):
    return Answer("id", text, token_ids, completion_tokens, 0.0, seconds)


def record(accepted, *, workload, drafted=None):
    return RequestAcceptance(
        request_id="id",
        drafter="d",
        revision="r",
        arm="champion",
        workload=workload,
        per_step_accepted=tuple(accepted),
        per_step_drafted=tuple(drafted or [2] * len(accepted)),
        emitted_tokens=sum(accepted) + len(accepted),
        unsettled_drafted=0,
        unsettled_accepted=0,
        finish_reason="stop",
    )


def run(name, answers, records=None):
    rows = AcceptanceRows(2, tuple(records)) if records is not None else None
    return ArmRun(name, tuple(answers), rows)


PLAIN = run("none", [answer(seconds=2.0), answer(seconds=2.0)])


def figures(arm):
    return arm_figures(arm, PROMPTS, reference=PLAIN, confidence=0.95)


def test_speed_is_all_tokens_over_all_request_seconds():
    fast = run("d", [answer(seconds=0.5), answer(completion_tokens=12, seconds=1.5)])
    assert figures(fast).tokens_per_second == 8.0  # 16 tokens in 2 s
    assert figures(fast).speedup == 4.0  # against 8 tokens in 4 s
    assert figures(PLAIN).speedup == 1.0
    assert figures(PLAIN).drafting is None


def test_tau_and_positions_come_from_the_servers_records():
    records = [record([2, 0], workload="json"), record([1], workload="code")]
    drafting = figures(run("d", [answer(completion_tokens=5)] * 2, records)).drafting
    assert drafting.overall.tau == 2.0  # 3 steps accepted 3 tokens
    assert drafting.overall.steps == 3
    assert drafting.accepted_per_position == (2 / 3, 1 / 3)
    assert drafting.by_workload["json"].tau == 2.0
    assert drafting.by_workload["code"].tau == 2.0
    assert math.isnan(drafting.by_workload["code"].low)  # one request has no spread


def test_answers_differ_if_a_token_differs_although_the_text_is_equal():
    same_text = run("d", [answer(), answer(token_ids=(1, 2, 3, 5))])
    assert figures(same_text).num_identical == 1


def test_answers_without_token_ids_are_compared_by_text_only():
    untold = run("d", [answer(token_ids=None), answer(token_ids=None, text="other")])
    assert figures(untold).num_identical == 1
    assert not tokens_are_comparable([PLAIN, untold])
    assert tokens_are_comparable([PLAIN])


def test_an_answer_of_one_token_counts_for_no_drafter():
    arm = run("d", [answer()] * 2, [record([1], workload="json"), None])
    assert figures(arm).drafting.overall.steps == 1


def test_a_drafter_without_any_step_is_an_error():
    with pytest.raises(EngineError, match="recorded no verification step for 2 answers"):
        figures(run("d", [answer()] * 2, [None, None]))


@pytest.mark.parametrize(
    "wrong", [record([2, 1], workload="json"), record([1], workload="code")], ids=["long", "label"]
)
def test_a_record_that_contradicts_the_answer_is_an_error(wrong):
    with pytest.raises(EngineError, match="record of json-000 must carry"):
        figures(run("d", [answer()] * 2, [wrong, None]))


def test_the_paired_ratio_is_the_later_drafter_over_the_earlier():
    worse = run("dflash", [answer()] * 2, [record([0], workload="json")] * 2)
    better = run("dpace", [answer()] * 2, [record([2], workload="json")] * 2)
    (pair,) = paired_figures([PLAIN, worse, better], confidence=0.95)
    assert (pair.a, pair.b) == ("dpace", "dflash")
    assert pair.ratio.ratio == 3.0
    assert pair.ratio.low == pytest.approx(3.0)  # all prompts agree, so nothing is uncertain


def test_only_answers_with_a_right_one_are_checked():
    assert num_right(PLAIN, PROMPTS) == (1, 1)
