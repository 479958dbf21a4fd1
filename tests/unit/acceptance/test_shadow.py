"""Drafts that nobody verified, judged by the answer."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpace_serve.acceptance.last_step import settle_last_step
from dpace_serve.acceptance.shadow import ShadowDraft, ShadowSteps, settle_drafts

ANSWER = (10, 11, 12, 13, 14, 15)


def test_the_leading_matches_are_accepted_and_the_whole_block_is_drafted():
    draft = ShadowDraft(0, (11, 12, 99, 14))
    assert settle_drafts(ANSWER, [draft]) == ShadowSteps((0,), (2,), (4,), 0)


def test_a_draft_stays_open_past_the_champions_next_step():
    # The champion stopped at index 2; the first draft is right up to its end at index 4.
    drafts = [ShadowDraft(0, (11, 12, 13, 14)), ShadowDraft(2, (98, 14))]
    assert settle_drafts(ANSWER, drafts) == ShadowSteps((0, 2), (4, 0), (4, 2), 0)


def test_positions_behind_the_end_are_unsettled_and_never_rejected():
    drafts = [ShadowDraft(3, (14, 15, 16, 17))]
    assert settle_drafts(ANSWER, drafts) == ShadowSteps((3,), (2,), (2,), 2)


def test_a_draft_that_failed_before_the_end_is_settled_whole():
    drafts = [ShadowDraft(3, (14, 97, 16, 17))]
    assert settle_drafts(ANSWER, drafts) == ShadowSteps((3,), (1,), (4,), 0)


def test_a_draft_after_the_last_token_is_no_step():
    assert settle_drafts(ANSWER, [ShadowDraft(5, (16, 17))]) == ShadowSteps((), (), (), 2)


@pytest.mark.parametrize("anchors", [(1, 1), (2, 1), (6,), (-1,)])
def test_anchors_outside_the_answer_or_out_of_order_are_refused(anchors):
    with pytest.raises(ValueError, match="anchors must rise and lie inside an answer of 6 tokens"):
        settle_drafts(ANSWER, [ShadowDraft(anchor, (1,)) for anchor in anchors])


def decoded(answer: list[int], num_draft_tokens: int, rng: random.Random):
    """Greedy draft and verify until the answer ends: the drafts, and what the engine counts."""
    anchor, drafts, accepted, emitted = 0, [], [], 0
    while anchor < len(answer) - 1:
        # Behind the end of the answer the target would have gone on with 7.
        truth = [*answer, *[7] * num_draft_tokens][anchor + 1 :][:num_draft_tokens]
        draft = tuple(token if rng.random() < 0.7 else token + 1 for token in truth)
        run = next(
            (k for k, pair in enumerate(zip(draft, truth, strict=True)) if len(set(pair)) > 1),
            num_draft_tokens,
        )
        drafts.append(ShadowDraft(anchor, draft))
        accepted.append(run)
        emitted = min(run + 1, len(answer) - 1 - anchor)
        anchor += run + 1
    return drafts, accepted, emitted


@given(st.integers(2, 40), st.integers(1, 8), st.randoms(use_true_random=False))
def test_a_drafter_in_its_own_shadow_has_its_live_acceptance(length, num_draft_tokens, rng):
    answer = [rng.randrange(5) * 10 for _ in range(length)]
    drafts, accepted, emitted_by_last_step = decoded(answer, num_draft_tokens, rng)
    live = settle_last_step(accepted, [num_draft_tokens] * len(accepted), emitted_by_last_step)
    shadow = settle_drafts(answer, drafts)
    assert shadow.per_step_accepted == live.per_step_accepted
    assert shadow.per_step_drafted == live.per_step_drafted
    assert shadow.unsettled_drafted == live.unsettled_drafted
