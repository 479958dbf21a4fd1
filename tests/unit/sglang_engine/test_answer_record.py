"""Records from what SGLang says of an ended request; all numbers are worked out by hand."""

from pathlib import Path

import pytest

from dpace_serve.live.assignment import Binding
from dpace_serve.live.hosted import HostedDrafter
from dpace_serve.sglang_engine.answer_record import BoundRequest, ServedSteps, served_record

DRAFTER = HostedDrafter("dpace", "0123456789ab", Path("dpace"), block_size=8, generation=0)
REQUEST = BoundRequest("r", Binding(0, DRAFTER, "champion"), "json")


def meta(*, tokens, histogram, steps, finish="length", retractions=0):
    return {
        "finish_reason": {"type": finish},
        "completion_tokens": tokens,
        "num_retractions": retractions,
        "spec_correct_drafts_histogram": histogram,
        "spec_num_proposed_drafts": 7 * steps,
    }


def record(accepted, meta_info, revisions=("0123456789ab",)):
    return served_record(REQUEST, meta_info, ServedSteps(accepted, revisions), 7)


def test_an_answer_that_ends_with_its_last_bonus_token_is_counted_whole():
    # The prompt emits 1, the steps 3 + 1, 0 + 1 and 2 + 1.
    made = record([3, 0, 2], meta(tokens=9, histogram=[1, 0, 1, 1], steps=3))
    assert (made.per_step_accepted, made.per_step_drafted) == ((3, 0, 2), (7, 7, 7))
    assert (made.emitted_tokens, made.unsettled_drafted, made.unsettled_accepted) == (8, 0, 0)
    assert (made.workload, made.arm, made.finish_reason) == ("json", "champion", "length")


def test_what_lies_past_the_end_is_neither_accepted_nor_drafted():
    # After 1 + 4 tokens the limit of 7 leaves 2 of the last step's 5 + 1.
    made = record([3, 5], meta(tokens=7, histogram=[0, 0, 0, 1, 0, 1], steps=2))
    assert (made.per_step_accepted, made.per_step_drafted) == ((3, 2), (7, 2))
    assert (made.emitted_tokens, made.unsettled_drafted, made.unsettled_accepted) == (6, 5, 3)


def test_each_retraction_is_one_more_token_of_the_prompt():
    made = record([1, 1], meta(tokens=7, histogram=[0, 2], steps=2, retractions=2))
    assert made.per_step_accepted == (1, 1)
    assert made.emitted_tokens == 4


def test_an_answer_of_one_token_has_no_step():
    assert record([], meta(tokens=1, histogram=[], steps=0), ()).excluded == "no_step"


def test_an_aborted_answer_is_left_out_whatever_was_counted():
    made = record([3], meta(tokens=2, histogram=[0, 0, 0, 1], steps=1, finish="abort"))
    assert (made.excluded, made.steps) == ("aborted", 0)


@pytest.mark.parametrize(
    ("accepted", "meta_info", "revisions"),
    [
        ([3, 0], meta(tokens=6, histogram=[1, 0, 1], steps=2), ("0123456789ab",)),
        ([3, 0], meta(tokens=6, histogram=[2, 0, 0, 1], steps=2), ("0123456789ab",)),
        ([3, 0], meta(tokens=6, histogram=[1, 0, 0, 1], steps=3), ("0123456789ab",)),
        ([3, 0], meta(tokens=6, histogram=[1, 0, 0, 1], steps=2), ("ba9876543210",)),
        ([3, 0], meta(tokens=6, histogram=[1, 0, 0, 1], steps=2), ()),
        ([3, 0], meta(tokens=9, histogram=[1, 0, 0, 1], steps=2), ("0123456789ab",)),
        ([3, 0], meta(tokens=5, histogram=[1, 0, 0, 1], steps=2), ("0123456789ab",)),
    ],
    ids=["another count", "a step more", "more drafted", "another drafter", "no drafter",
         "too many tokens", "too few tokens"],
)  # fmt: skip
def test_accounts_that_contradict_each_other_make_no_record(accepted, meta_info, revisions):
    with pytest.raises(ValueError, match=r".+"):
        record(accepted, meta_info, revisions)


def test_the_accounts_that_agree_do_make_one():
    made = record([3, 0], meta(tokens=6, histogram=[1, 0, 0, 1], steps=2))
    assert (made.accepted, made.emitted_tokens) == (3, 5)
