"""Block factors of each reduction, from masks alone."""

import pytest
import torch

from dpace_training.losses.reduction import ReductionCounts, block_scales

# Document 1 has two counted blocks (3 and 1 supervised positions), document 2 one of 2 positions,
# document 3 none.
SUPERVISED = torch.tensor(
    [
        [[1, 1, 1], [0, 1, 0], [0, 0, 0]],
        [[0, 0, 0], [1, 0, 1], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
    ]
).bool()


def test_counts_are_of_documents_blocks_and_positions_with_something_to_learn():
    assert ReductionCounts.of(SUPERVISED) == ReductionCounts(
        sequences=3, documents=2, blocks=3, positions=6
    )


def test_counts_of_parts_add_up():
    parts = [ReductionCounts.of(SUPERVISED[:1]), ReductionCounts.of(SUPERVISED[1:])]
    assert parts[0] + parts[1] == ReductionCounts.of(SUPERVISED)


@pytest.mark.parametrize(
    ("reduction", "first", "second"),
    [
        ("anchor_seq", 1 / 4, 1 / 2),
        ("batch", 1 / 3, 1 / 3),
        ("weight_sum", 1, 1),
        ("token", 1 / 6, 1 / 6),
        ("block", 1 / 3, 1 / 3),
    ],
)
def test_each_counted_block_has_the_factor_of_its_document(reduction, first, second):
    found = block_scales(SUPERVISED, reduction=reduction, totals=ReductionCounts.of(SUPERVISED))
    expected = torch.tensor([[first, first, 0], [0, second, 0], [0, 0, 0]], dtype=torch.float64)
    assert torch.allclose(found, expected)


def test_denominators_come_from_the_whole_step_not_from_this_part():
    totals = ReductionCounts(sequences=10, documents=8, blocks=20, positions=50)
    found = block_scales(SUPERVISED[:1], reduction="anchor_seq", totals=totals)
    assert found.tolist() == [[1 / 16, 1 / 16, 0]]


@pytest.mark.parametrize("reduction", ["anchor_seq", "batch", "weight_sum", "token", "block"])
def test_a_step_with_nothing_to_learn_has_factors_of_zero(reduction):
    nothing = torch.zeros_like(SUPERVISED)
    found = block_scales(nothing, reduction=reduction, totals=ReductionCounts.of(nothing))
    assert torch.equal(found, torch.zeros(3, 3, dtype=torch.float64))
