"""Shadow drafts are kept per request and handed out once."""

import pytest
import torch

from dpace_serve.vllm_engine.draft_log import DraftLog

pytestmark = pytest.mark.torch


def tensors(positions, drafts):
    return torch.tensor(positions), torch.tensor(drafts)


def test_drafts_come_back_by_request_and_slot_in_the_order_of_their_steps():
    log = DraftLog()
    log.add(1, [7, 8], *tensors([10, 20], [[1, 2], [3, 4]]))
    log.add(2, [7], *tensors([10], [[5, 6]]))
    log.add(1, [7], *tensors([12], [[9, 9]]))
    assert log.take([7, 8]) == {
        7: {1: [(10, [1, 2]), (12, [9, 9])], 2: [(10, [5, 6])]},
        8: {1: [(20, [3, 4])]},
    }


def test_what_was_taken_is_gone_and_an_unknown_request_is_left_out():
    log = DraftLog()
    log.add(1, [7], *tensors([10], [[1]]))
    assert log.take([7, 99]) == {7: {1: [(10, [1])]}}
    assert log.take([7]) == {}
    assert len(log) == 0


def test_drafts_of_different_lengths_stay_in_order():
    log = DraftLog()
    for position, draft in ((1, [1, 2, 3]), (2, [4]), (3, [5, 6, 7]), (4, [8])):
        log.add(1, [0], *tensors([position], [draft]))
    taken = log.take([0])[0][1]
    assert taken == [(1, [1, 2, 3]), (2, [4]), (3, [5, 6, 7]), (4, [8])]


def test_beyond_its_bound_the_oldest_request_is_forgotten():
    log = DraftLog(max_requests=2)
    for key in (1, 2, 1, 3):
        log.add(1, [key], *tensors([key], [[key]]))
    assert len(log) == 2
    assert sorted(log.take([1, 2, 3])) == [2, 3]
