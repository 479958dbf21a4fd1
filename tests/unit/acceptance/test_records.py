"""Records of every kind: served, shadow and excluded, and their way through JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpace_serve.acceptance.exclusion import EXCLUSION_REASONS
from dpace_serve.acceptance.last_step import settle_last_step
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.acceptance.shadow import ShadowDraft, ShadowSteps, settle_drafts

WHO = {"request_id": "r1", "drafter": "new", "revision": "0123456789ab", "workload": "json"}
ANSWER = (10, 11, 12, 13, 14, 15)


def shadow(*drafts):
    steps = settle_drafts(ANSWER, [ShadowDraft(*draft) for draft in drafts])
    return RequestAcceptance.from_shadow(steps, **WHO, finish_reason="stop")


def excluded(reason, arm="champion"):
    return RequestAcceptance.from_exclusion(reason, **WHO, arm=arm, finish_reason="abort")


def served(**changes):
    values = {
        "arm": "champion",
        "per_step_accepted": (2, 2),
        "per_step_drafted": (7, 2),
        "emitted_tokens": 5,
        "unsettled_drafted": 5,
        "unsettled_accepted": 3,
        "finish_reason": "stop",
    }
    return RequestAcceptance(**(WHO | values | changes))


def test_a_shadow_emits_nothing_and_any_of_its_steps_may_be_open_at_the_end():
    # Anchor 0: one right, complete. Anchor 2: all right up to the end, one position open behind it.
    record = shadow((0, (11, 99)), (2, (13, 14, 15, 16)))
    assert record.arm == "shadow"
    assert record.per_step_accepted == (1, 3)
    assert record.per_step_drafted == (2, 3)
    assert record.emitted_tokens == 0
    assert (record.unsettled_drafted, record.unsettled_accepted) == (1, 0)
    assert record.tau == 3.0  # 1 + 4 / 2
    assert record.excluded is None
    counts = record.counts(num_draft_tokens=4)
    assert (counts.accepted, counts.drafted) == ((2, 1, 1, 0), (2, 2, 1, 0))


def test_a_shadow_may_leave_positions_open_without_a_cut_at_its_last_step():
    # The first draft is open to the end, the last one failed: no drafter that serves can do that.
    record = shadow((3, (14, 15, 16)), (4, (99, 16, 17)))
    assert record.per_step_accepted == (2, 0)
    assert record.per_step_drafted == (2, 3)
    assert record.unsettled_drafted == 1


def test_a_shadow_of_which_nothing_was_compared_is_excluded():
    record = shadow((5, (16, 17)))
    assert record.excluded == "no_step"
    assert (record.steps, record.unsettled_drafted) == (0, 0)


@pytest.mark.parametrize("reason", EXCLUSION_REASONS)
def test_an_excluded_record_has_a_reason_and_nothing_else(reason):
    record = excluded(reason, arm="shadow")
    assert record.excluded == reason
    assert (record.steps, record.accepted, record.emitted_tokens) == (0, 0, 0)
    assert record.to_dict()["tau"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": "jester"}, "one of champion, challenger, shadow, got jester"),
        ({"arm": "shadow"}, "got 5 emitted and 3 accepted there"),
        ({"arm": "shadow", "emitted_tokens": 0}, "got 0 emitted and 3 accepted there"),
        ({"excluded": "bored"}, "no_step, no_shadow, got bored"),
        ({"excluded": "aborted"}, "no steps and tokens, got 2 steps, 5 emitted and 5 unsettled"),
        ({"excluded": "no_shadow"}, "only a shadow is excluded as no_shadow, got the arm champion"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        served(**changes)


@pytest.mark.parametrize(
    "record",
    [
        served(),
        served(arm="challenger", request_id='quote " and \ud800 and \n'),
        shadow((0, (11, 99)), (2, (13, 14, 15, 16))),
        shadow((5, (16,))),
        excluded("aborted"),
        excluded("no_shadow", arm="shadow"),
    ],
    ids=["served", "challenger", "shadow", "empty shadow", "aborted", "lost shadow"],
)
def test_a_record_survives_json(record):
    assert RequestAcceptance.from_dict(json.loads(json.dumps(record.to_dict()))) == record


@given(st.lists(st.integers(1, 8).flatmap(lambda d: st.tuples(st.integers(0, d), st.just(d)))))
def test_any_steps_survive_json_served_and_in_the_shadow(steps):
    accepted, drafted = [list(part) for part in zip(*steps, strict=True)] or [[], []]
    records = [
        RequestAcceptance.from_shadow(
            ShadowSteps(tuple(range(len(steps))), tuple(accepted), tuple(drafted), 3),
            **WHO,
            finish_reason="length",
        )
    ]
    if steps:
        settled = settle_last_step(accepted, drafted, accepted[-1] or 1)
        records.append(
            served(
                per_step_accepted=settled.per_step_accepted,
                per_step_drafted=settled.per_step_drafted,
                emitted_tokens=settled.emitted_tokens,
                unsettled_drafted=settled.unsettled_drafted,
                unsettled_accepted=settled.unsettled_accepted,
            )
        )
    for record in records:
        assert RequestAcceptance.from_dict(json.loads(json.dumps(record.to_dict()))) == record


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, r"unknown: \['colour'\]"),
        ({"drafter": 7}, "drafter must be text, got 7"),
        ({"arm": "jester"}, "arm must be one of champion, challenger, shadow, got 'jester'"),
        ({"excluded": "bored"}, "excluded must be one of aborted.* got 'bored'"),
        ({"excluded": ["aborted"]}, "excluded must be one of"),
        ({"per_step_accepted": "22"}, "per_step_accepted must be a list of whole numbers"),
        ({"per_step_accepted": [2, True]}, "per_step_accepted must be a list of whole numbers"),
        ({"per_step_drafted": [7, 2.0]}, "per_step_drafted must be a list of whole numbers"),
        ({"emitted_tokens": True}, "emitted_tokens must be a whole number, got True"),
        ({"emitted_tokens": 4}, "emit 6 tokens"),
        ({"steps": 3}, "those of the 2 steps, got 3, 4 and 3.0"),
        ({"accepted": 5}, "got 2, 5 and 3.0"),
        ({"tau": None}, "got 2, 4 and None"),
    ],
)
def test_a_row_that_no_record_wrote_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RequestAcceptance.from_dict(served().to_dict() | changes)


@pytest.mark.parametrize("key", list(served().to_dict()))
def test_a_row_without_one_of_its_keys_is_refused(key):
    row = served().to_dict()
    del row[key]
    with pytest.raises(ValueError, match=rf"missing: \['{key}'\]"):
        RequestAcceptance.from_dict(row)
