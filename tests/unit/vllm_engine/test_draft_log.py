"""Shadow drafts are kept per request and handed out once: those that came to verification."""

import pytest
import torch

from dpace_serve.vllm_engine.draft_log import DraftLog

pytestmark = pytest.mark.torch


def draft(log, slot, keys, positions, drafts):
    log.add(slot, keys, torch.tensor(positions), torch.tensor(drafts))


def step(log, keys, starts, num_tokens):
    log.begin_step(keys, torch.tensor(starts), num_tokens)


def test_drafts_come_back_by_request_and_slot_in_the_order_of_their_steps():
    log = DraftLog()
    draft(log, 1, [7, 8], [10, 20], [[1, 2], [3, 4]])
    draft(log, 2, [7], [10], [[5, 6]])
    step(log, [7, 8], [10, 20], [3, 3])
    draft(log, 1, [7], [12], [[9, 9]])
    step(log, [9, 7], [0, 12], [50, 3])
    assert log.take([7, 8]) == {
        7: {1: [(10, [1, 2]), (12, [9, 9])], 2: [(10, [5, 6])]},
        8: {1: [(20, [3, 4])]},
    }


@pytest.mark.parametrize(
    ("start", "num_tokens"),
    [(10, 1), (0, 11), (8, 3)],
    ids=["without drafts", "from its prompt again", "from a cached block on"],
)
def test_a_block_whose_request_goes_on_otherwise_was_never_verified(start, num_tokens):
    """It was drafted after the token at position 10, and then its request was preempted."""
    log = DraftLog()
    draft(log, 1, [7], [10], [[1, 2]])
    step(log, [7], [start], [num_tokens])
    draft(log, 1, [7], [11], [[3, 4]])
    step(log, [7], [11], [3])
    assert log.take([7]) == {7: {1: [(11, [3, 4])]}}


def test_the_last_block_of_an_answer_was_never_verified():
    log = DraftLog()
    draft(log, 1, [7], [10], [[1, 2]])
    step(log, [8], [10], [3])  # a step of another request says nothing about this one
    assert log.take([7]) == {7: {}}


def test_a_block_is_cut_to_as_many_tokens_as_were_verified():
    log = DraftLog()
    draft(log, 1, [7], [10], [[1, 2, 3, 4]])
    step(log, [7], [10], [3])
    assert log.take([7]) == {7: {1: [(10, [1, 2])]}}


def test_what_was_taken_is_gone_and_an_unknown_request_is_left_out():
    log = DraftLog()
    draft(log, 1, [7], [10], [[1]])
    step(log, [7], [10], [2])
    assert log.take([7, 99]) == {7: {1: [(10, [1])]}}
    assert log.take([7]) == {}
    assert len(log) == 0


def test_drafts_of_different_lengths_stay_in_order():
    log = DraftLog()
    blocks = [(1, [1, 2, 3]), (2, [4]), (3, [5, 6, 7]), (4, [8])]
    for position, tokens in blocks:
        draft(log, 1, [0], [position], [tokens])
        step(log, [0], [position], [1 + len(tokens)])
    assert log.take([0])[0][1] == blocks


def test_beyond_its_bound_the_oldest_request_is_forgotten():
    log = DraftLog(max_requests=2)
    for key in (1, 2, 1, 3):
        draft(log, 1, [key], [key], [[key]])
    assert len(log) == 2
    assert sorted(log.take([1, 2, 3])) == [2, 3]
