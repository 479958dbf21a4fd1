"""What adapters make of rows: hand-made numbers, and the product of every row in turn."""

import pytest
import torch

from dpace_serve.drafter.draft_groups import DraftGroups
from dpace_serve.drafter.grouped_layers import LowRankAdapters
from dpace_serve.drafter.specialists import Specialists


def adapters_of(groups, adapter_in, adapter_out):
    adapters = LowRankAdapters(groups, adapter_in.shape[2])
    adapters.load("adapter_in.weight", adapter_in)
    adapters.load("adapter_out.weight", adapter_out)
    return adapters


def test_rows_of_two_groups_by_hand():
    groups = DraftGroups(Specialists("low_rank", 1, 1), longest=2, shortest=2)
    adapter_in = torch.tensor([[[1.0, 2.0]], [[0.0, 3.0]]])
    adapter_out = torch.tensor([[[1.0], [0.0]], [[10.0], [20.0]]])
    adapters = adapters_of(groups, adapter_in, adapter_out)
    hidden = torch.ones(4, 2)
    adapted = torch.tensor([-1, 0, 1, -1])
    # Anchors stay; position 1 adds (1 + 2) * [1, 0], position 2 adds 3 * [10, 20].
    expected = [[1.0, 1.0], [4.0, 1.0], [31.0, 61.0], [1.0, 1.0]]
    assert adapters(hidden, groups.shares(adapted)).tolist() == expected
    assert adapters.row_by_row(hidden, adapted).tolist() == expected


@pytest.mark.parametrize("group_size", [1, 2, 7])
def test_both_ways_are_the_product_of_every_row_with_its_adapter(group_size):
    generator = torch.Generator().manual_seed(group_size)
    groups = DraftGroups(Specialists("low_rank", group_size, 3), longest=7, shortest=1)
    shape = (groups.num_groups, 3, 16)
    adapter_in = torch.randn(shape, generator=generator)
    adapter_out = torch.randn(shape, generator=generator).transpose(1, 2)
    adapters = adapters_of(groups, adapter_in, adapter_out)
    hidden = torch.randn(24, 16, generator=generator)
    for num_draft_tokens in (1, 4, 7):
        expected = hidden.clone()
        for row in range(24):
            position = row % (1 + num_draft_tokens)
            if position:
                group = (position - 1) // group_size
                expected[row] += adapter_out[group] @ (adapter_in[group] @ hidden[row])
        adapted = groups.adapted_groups(num_draft_tokens, num_rows=24, device=hidden.device)
        torch.testing.assert_close(adapters(hidden, groups.shares(adapted)), expected)
        torch.testing.assert_close(adapters.row_by_row(hidden, adapted), expected)
