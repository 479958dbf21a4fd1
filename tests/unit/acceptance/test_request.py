"""One finished request: the cut of its last step, and the equalities that close its sums."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpace_serve.acceptance.last_step import settle_last_step
from dpace_serve.acceptance.request import RequestAcceptance


def record(accepted, drafted, emitted, *, unsettled=(0, 0)):
    return RequestAcceptance(
        request_id="r1",
        drafter="dpace",
        revision="0123456789ab",
        arm="champion",
        workload="json",
        per_step_accepted=tuple(accepted),
        per_step_drafted=tuple(drafted),
        emitted_tokens=emitted,
        unsettled_drafted=unsettled[0],
        unsettled_accepted=unsettled[1],
        finish_reason="stop",
    )


def test_a_step_that_emitted_its_bonus_token_is_kept_whole():
    settled = settle_last_step([2, 1], [7, 7], emitted_by_last_step=2)
    assert settled.per_step_accepted == (2, 1)
    assert settled.per_step_drafted == (7, 7)
    assert (settled.unsettled_drafted, settled.unsettled_accepted) == (0, 0)
    assert not settled.is_cut
    assert settled.emitted_tokens == 5


def test_a_step_that_ran_past_the_end_is_cut_to_what_it_emitted():
    # Drafted 7, accepted 5, but the second accepted token ended the answer.
    settled = settle_last_step([2, 5], [7, 7], emitted_by_last_step=2)
    assert settled.per_step_accepted == (2, 2)
    assert settled.per_step_drafted == (7, 2)
    assert (settled.unsettled_drafted, settled.unsettled_accepted) == (5, 3)
    assert settled.is_cut
    assert settled.emitted_tokens == 5  # 3 + 2


def test_an_answer_that_ends_on_the_last_accepted_token_loses_only_the_bonus_token():
    settled = settle_last_step([7], [7], emitted_by_last_step=7)
    assert settled.per_step_drafted == (7,)
    assert (settled.unsettled_drafted, settled.unsettled_accepted) == (0, 0)
    assert settled.is_cut
    assert settled.emitted_tokens == 7


def test_the_position_after_the_cut_is_not_a_rejection():
    # Accepted 2 of 3 and both emitted: position 3 was compared with a token that nobody received.
    settled = settle_last_step([2], [3], emitted_by_last_step=2)
    assert settled.per_step_drafted == (2,)
    assert (settled.unsettled_drafted, settled.unsettled_accepted) == (1, 0)


def test_steps_that_drafted_nothing_are_left_out():
    settled = settle_last_step([1, 0, 2, 0], [3, 0, 3, 0], emitted_by_last_step=1)
    assert settled.per_step_accepted == (1, 2)
    assert settled.per_step_drafted == (3, 3)
    assert not settled.is_cut
    assert settled.emitted_tokens == 5


@pytest.mark.parametrize("emitted", [0, 4])
def test_a_step_cannot_emit_nothing_or_more_than_its_bonus_token(emitted):
    with pytest.raises(ValueError, match=f"emits 1 to 3 tokens, got {emitted}"):
        settle_last_step([2], [3], emitted_by_last_step=emitted)


@pytest.mark.parametrize(
    ("accepted", "drafted", "emitted", "message"),
    [
        ([4], [3], 5, "got 4 of 3 in step 1"),
        ([4], [3], 1, "0 <= accepted <= drafted"),
        ([1, 1], [0, 3], 2, "got 1 of 0 in step 1"),
        ([], [], 1, "at least 1 step, accepted and drafted of each, got 0 and 0"),
        ([1], [1, 1], 2, "got 1 and 2"),
    ],
)
def test_steps_that_cannot_be_are_not_settled(accepted, drafted, emitted, message):
    with pytest.raises(ValueError, match=message):
        settle_last_step(accepted, drafted, emitted)


@st.composite
def engine_runs(draw):
    """Steps as the engine counts them, and how many of the tokens the answer keeps."""
    steps = draw(
        st.lists(
            st.integers(1, 8).flatmap(
                lambda drafted: st.tuples(st.integers(0, drafted), st.just(drafted))
            ),
            min_size=1,
            max_size=12,
        )
    )
    kept_of_last = draw(st.integers(1, steps[-1][0] + 1))
    return steps, kept_of_last


@given(engine_runs())
def test_the_sums_close_wherever_the_answer_ends(run):
    steps, kept_of_last = run
    engine_accepted = [accepted for accepted, _ in steps]
    engine_drafted = [drafted for _, drafted in steps]
    # The stream of tokens, written out: True for an accepted draft token, False for a bonus token.
    stream = []
    for accepted in engine_accepted:
        stream += [True] * accepted + [False]
    dropped = engine_accepted[-1] + 1 - kept_of_last
    answer = stream[: len(stream) - dropped]

    settled = settle_last_step(engine_accepted, engine_drafted, kept_of_last)
    request = record(
        settled.per_step_accepted,
        settled.per_step_drafted,
        settled.emitted_tokens,
        unsettled=(settled.unsettled_drafted, settled.unsettled_accepted),
    )

    assert request.emitted_tokens == len(answer)
    assert request.accepted == sum(answer)
    assert request.emitted_tokens == request.accepted + request.steps - (dropped > 0)
    assert sum(engine_drafted) == sum(request.per_step_drafted) + request.unsettled_drafted
    assert sum(engine_accepted) == request.accepted + request.unsettled_accepted
    counts = request.counts(num_draft_tokens=8)
    assert counts.accepted_total == request.accepted
    assert counts.drafted_total == sum(request.per_step_drafted)
    assert counts.tau == request.tau
    assert counts.emitted == len(answer)


@pytest.mark.parametrize(
    ("accepted", "drafted", "emitted", "unsettled", "message"),
    [
        # The engine's own sums of an answer that ended two tokens early.
        ([2, 5], [7, 7], 7, (0, 0), "emit 9 tokens, one less if the last is cut, got 7"),
        # One token early, but the last step was not cut to what it emitted.
        ([2, 5], [7, 7], 8, (0, 0), "got 8"),
        ([2, 2], [7, 2], 7, (0, 0), "got 7"),
        ([], [], -1, (0, 0), "got -1"),
        ([2, 2], [7, 2], 6, (5, 3), "only a cut last step leaves positions unsettled, got 5"),
        ([2, 2], [7, 2], 5, (3, 5), "0 <= accepted <= drafted"),
        ([2, 2], [7, 2], 5, (-1, -1), "0 <= accepted <= drafted"),
        ([3], [2], 4, (0, 0), "got 3 of 2 in step 1"),
    ],
)
def test_a_record_whose_sums_do_not_close_is_refused(
    accepted, drafted, emitted, unsettled, message
):
    with pytest.raises(ValueError, match=message):
        record(accepted, drafted, emitted, unsettled=unsettled)


def test_tau_of_a_request_counts_the_bonus_token():
    assert record([3, 0], [3, 3], 5).tau == 2.5


def test_a_request_without_a_step_has_no_tau():
    request = record([], [], 0)
    assert math.isnan(request.tau)
    assert request.to_dict()["tau"] is None


def test_the_row_of_a_request_survives_json():
    row = record([2, 2], [7, 2], 5, unsettled=(5, 3)).to_dict()
    assert json.loads(json.dumps(row, allow_nan=False)) == {
        "request_id": "r1",
        "drafter": "dpace",
        "revision": "0123456789ab",
        "arm": "champion",
        "workload": "json",
        "finish_reason": "stop",
        "excluded": None,
        "steps": 2,
        "accepted": 4,
        "tau": 3.0,
        "emitted_tokens": 5,
        "per_step_accepted": [2, 2],
        "per_step_drafted": [7, 2],
        "unsettled_drafted": 5,
        "unsettled_accepted": 3,
    }
