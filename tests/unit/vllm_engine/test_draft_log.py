"""Shadow drafts are kept per request and handed out once: those that came to verification."""

import gc
import random

import pytest
import torch

from dpace_serve.vllm_engine.draft_log import DraftLog
from dpace_serve.vllm_engine.packed_drafts import unpacked

pytestmark = pytest.mark.torch


def draft(log, slot, keys, positions, drafts):
    log.add(slot, keys, torch.tensor(positions), torch.tensor(drafts))


def step(log, keys, starts, num_tokens):
    log.begin_step(keys, torch.tensor(starts), num_tokens)


def take(log, keys):
    packed, left = log.take(keys)
    assert left == []
    return {key: unpacked(drafts) for key, drafts in packed.items()}


def test_drafts_come_back_by_request_and_slot_in_the_order_of_their_steps():
    log = DraftLog()
    draft(log, 1, [7, 8], [10, 20], [[1, 2], [3, 4]])
    draft(log, 2, [7], [10], [[5, 6]])
    step(log, [7, 8], [10, 20], [3, 3])
    draft(log, 1, [7], [12], [[9, 9]])
    step(log, [9, 7], [0, 12], [50, 3])
    assert take(log, [7, 8]) == {
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
    assert take(log, [7]) == {7: {1: [(11, [3, 4])]}}


def test_the_last_block_of_an_answer_was_never_verified():
    log = DraftLog()
    draft(log, 1, [7], [10], [[1, 2]])
    step(log, [8], [10], [3])  # a step of another request says nothing about this one
    assert take(log, [7]) == {7: {}}


def test_a_block_is_cut_to_as_many_tokens_as_were_verified():
    log = DraftLog()
    draft(log, 1, [7], [10], [[1, 2, 3, 4]])
    step(log, [7], [10], [3])
    assert take(log, [7]) == {7: {1: [(10, [1, 2])]}}


def test_what_was_taken_is_gone_and_an_unknown_request_is_left_out():
    log = DraftLog()
    draft(log, 1, [7], [10], [[1]])
    step(log, [7], [10], [2])
    assert take(log, [7, 99]) == {7: {1: [(10, [1])]}}
    assert take(log, [7]) == {}
    assert len(log) == 0


def test_drafts_of_different_lengths_stay_in_order():
    log = DraftLog()
    blocks = [(1, [1, 2, 3]), (2, [4]), (3, [5, 6, 7]), (4, [8])]
    for position, tokens in blocks:
        draft(log, 1, [0], [position], [tokens])
        step(log, [0], [position], [1 + len(tokens)])
    assert take(log, [0])[0][1] == blocks


def test_beyond_its_bound_the_oldest_request_is_forgotten():
    log = DraftLog(max_requests=2)
    for key in (1, 2, 1, 3):
        draft(log, 1, [key], [key], [[key]])
    assert len(log) == 2
    assert sorted(take(log, [1, 2, 3])) == [2, 3]


def test_a_block_whose_request_waits_for_many_steps_is_still_told_by_its_next_one():
    log = DraftLog()
    draft(log, 1, [7, 8], [10, 20], [[1, 2], [3, 4]])
    for number in range(50):
        step(log, [8], [20 + 3 * number], [3])
        draft(log, 1, [8], [23 + 3 * number], [[number, number]])
    step(log, [7], [10], [3])
    assert take(log, [7]) == {7: {1: [(10, [1, 2])]}}
    assert take(log, [8])[8][1] == [(20, [3, 4])] + [
        (23 + 3 * number, [number, number]) for number in range(49)
    ]


def test_a_take_that_would_be_long_is_done_in_parts():
    """Each request has two drafts of position, length and two tokens: 32 bytes."""
    log = DraftLog()
    for key in (1, 2, 3):
        for position in (10, 13):
            draft(log, 1, [key], [position], [[key, position]])
            step(log, [key], [position], [3])
    packed, left = log.take([1, 2, 3, 99], max_bytes=33)
    assert (sorted(packed), left) == ([1, 2], [3])
    packed, left = log.take(left, max_bytes=1)
    assert unpacked(packed[3]) == {1: [(10, [3, 10]), (13, [3, 13])]}
    assert left == []


def test_many_requests_that_come_wait_and_leave_have_what_a_plain_list_has():
    """Every draft of the reference is kept as it is made, and cut by hand."""
    numbers = random.Random(5)
    log, expected = DraftLog(), {}
    newest, lengths = {}, dict.fromkeys(range(12), 5)
    for _ in range(200):
        keys = sorted(numbers.sample(range(12), numbers.randint(1, 12)))
        num_tokens = [numbers.choice([1, 4, 5]) for _ in keys]
        starts = [lengths[key] - (numbers.random() < 0.1) for key in keys]
        step(log, keys, starts, num_tokens)
        for key, start, count in zip(keys, starts, num_tokens, strict=True):
            for slot, position, tokens in newest.pop(key, ()):
                if count > 1 and start == position:
                    kept = expected.setdefault(key, {}).setdefault(slot, [])
                    kept.append((position, tokens[: count - 1]))
            lengths[key] += numbers.randint(1, 5)
        for slot in (1, 2):
            rows = sorted(numbers.sample(keys, numbers.randint(1, len(keys))))
            drafts = [[numbers.randrange(150_000) for _ in range(4)] for _ in rows]
            draft(log, slot, rows, [lengths[key] for key in rows], drafts)
            for key, tokens in zip(rows, drafts, strict=True):
                newest.setdefault(key, []).append((slot, lengths[key], tokens))
        if numbers.random() < 0.2:
            key = numbers.randrange(12)
            newest.pop(key, None)
            assert take(log, [key]).get(key, {}) == expected.pop(key, {})
    taken = take(log, range(12))
    assert {key: drafts for key, drafts in taken.items() if drafts} == expected


def test_a_long_request_keeps_nothing_of_those_beside_it_and_no_tensor():
    log = DraftLog()

    def num_alive():
        gc.collect()
        return sum(isinstance(each, torch.Tensor) for each in gc.get_objects())

    before = num_alive()
    for number in range(160):
        step(log, [7, 1000 + number - 1], [3 * number, 0], [3, 3])
        draft(log, 1, [7, 1000 + number], [3 * number + 3, 0], [[1, 2], [3, 4]])
        log.take([1000 + number])
    assert num_alive() - before < 2 * 3
    assert len(take(log, [7])[7][1]) == 159
