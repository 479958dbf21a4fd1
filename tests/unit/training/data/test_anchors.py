"""Where blocks start: candidates, the draw, and what a block is to predict."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpace_training.data.anchors import (
    anchor_candidates,
    anchor_generator,
    block_targets,
    covered_tokens,
    sample_anchors,
)


def mask(text: str) -> torch.Tensor:
    """`.` is a prompt token, `x` one to learn from."""
    return torch.tensor([letter == "x" for letter in text], dtype=torch.bool)


def drawn(text: str, *, num_anchors: int | None, seed: int = 0, epoch: int = 0, document: int = 0):
    return sample_anchors(
        mask(text),
        block_size=4,
        num_anchors=num_anchors,
        generator=anchor_generator(seed, epoch, document),
        allow_tail=False,
    ).tolist()


@pytest.mark.parametrize(
    ("text", "anchors", "with_tail"),
    [
        ("..xxxxxx", [2, 3, 4], [2, 3, 4, 5, 6]),
        ("xxxx", [0], [0, 1, 2]),
        ("..xx", [], [2]),  # the only pair does not fit a block
        ("xx", [], [0]),
        ("x", [], []),
        ("", [], []),
        ("........", [], []),
        ("x.......", [], []),  # nothing supervised after it
        ("x...x...", [], []),  # the next one lies one place past the block
        ("x..x....", [0], [0]),
        ("xxx...xxxx", [0, 1, 6], [0, 1, 6, 7, 8]),
    ],
)
def test_a_candidate_is_supervised_has_something_to_predict_and_fits(text, anchors, with_tail):
    assert anchor_candidates(mask(text), block_size=4, allow_tail=False).tolist() == anchors
    assert anchor_candidates(mask(text), block_size=4, allow_tail=True).tolist() == with_tail


def test_a_document_with_one_candidate_gives_one_anchor():
    assert drawn("xxxx", num_anchors=512) == [0]


def test_a_document_without_a_candidate_gives_none():
    assert drawn("........", num_anchors=512) == []


def test_all_candidates_are_taken_when_there_are_no_more_than_asked_for():
    assert drawn("x" * 12, num_anchors=9) == list(range(9))
    assert drawn("x" * 12, num_anchors=None) == list(range(9))


def test_the_draw_is_sorted_without_repeats_and_of_the_size_asked_for():
    anchors = drawn("x" * 100, num_anchors=30)
    assert len(anchors) == 30
    assert anchors == sorted(set(anchors))


def test_the_draw_depends_on_seed_epoch_and_document_only():
    text = "x" * 100
    torch.manual_seed(1)
    first = drawn(text, num_anchors=20, seed=3, epoch=1, document=7)
    torch.manual_seed(2)
    assert drawn(text, num_anchors=20, seed=3, epoch=1, document=7) == first
    assert drawn(text, num_anchors=20, seed=4, epoch=1, document=7) != first
    assert drawn(text, num_anchors=20, seed=3, epoch=2, document=7) != first
    assert drawn(text, num_anchors=20, seed=3, epoch=1, document=8) != first


def test_every_candidate_is_drawn_sooner_or_later():
    text = "x" * 23
    seen = {anchor for epoch in range(60) for anchor in drawn(text, num_anchors=4, epoch=epoch)}
    assert seen == set(range(20))


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet=".x", max_size=24), st.integers(2, 9), st.booleans())
def test_candidates_are_those_a_slow_reading_of_the_rule_finds(text, block_size, allow_tail):
    expected = [
        start
        for start in range(len(text))
        if text[start] == "x"
        and "x" in text[start + 1 : start + block_size]
        and (allow_tail or start + block_size <= len(text))
    ]
    found = anchor_candidates(mask(text), block_size=block_size, allow_tail=allow_tail)
    assert found.tolist() == expected


def test_position_k_predicts_the_token_k_places_after_the_anchor():
    tokens = torch.arange(10, 18)
    labels, supervised = block_targets(
        tokens, mask("..xxx.xx"), torch.tensor([2, 4, 6]), block_size=4
    )
    assert labels.tolist() == [[13, 14, 15], [15, 16, 17], [17, 0, 0]]
    assert supervised.tolist() == [[True, True, False], [False, True, True], [True, False, False]]


def test_a_document_without_blocks_has_targets_of_no_rows():
    labels, supervised = block_targets(
        torch.arange(5), mask("....."), torch.zeros(0, dtype=torch.int64), block_size=4
    )
    assert labels.shape == supervised.shape == (0, 3)


def test_covered_tokens_are_counted_once_and_inside_the_document():
    mask = torch.tensor([False, False, True, True, True, True, True])
    # Blocks of 3 predict two tokens: 3 and 4, 4 and 5, and 7, which is outside.
    assert covered_tokens(mask, torch.tensor([2, 3, 6]), block_size=3) == 3
    assert covered_tokens(mask, torch.tensor([], dtype=torch.long), block_size=3) == 0
