"""Which row of a step belongs to which group: hand-made numbers, and a loop over rows."""

import pytest
import torch

from dpace_serve.drafter.draft_groups import DraftGroups
from dpace_serve.drafter.specialists import Specialists

CPU = torch.device("cpu")


def places_of(groups, num_draft_tokens, num_rows):
    table = groups.table(
        num_draft_tokens,
        num_rows=num_rows,
        num_places=groups.rows_per_group(num_rows),
        device=CPU,
    )
    return groups.places(table, num_rows)


def test_two_blocks_of_three_drafts_in_groups_of_two():
    groups = DraftGroups(Specialists("last_layer", 2), longest=3, shortest=3)
    assert (groups.num_groups, groups.rows_per_group(8)) == (2, 4)
    found = places_of(groups, 3, 8)
    # Rows 0 and 4 are anchors; they go with rows 1 and 5.
    assert found.group.tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    assert found.place.tolist() == [0, 0, 1, 4, 2, 2, 3, 6]
    # The second group has one row of each block, and fills its other places with it.
    assert found.rows.tolist() == [1, 2, 5, 6, 3, 3, 7, 7]


def test_adapters_of_two_groups_and_rank_two():
    groups = DraftGroups(Specialists("low_rank", 2, 2), longest=3, shortest=3)
    adapted = groups.adapted_groups(3, num_rows=5, device=CPU)
    assert adapted.tolist() == [-1, 0, 0, 1, -1]
    shares = groups.shares(adapted)
    assert shares.int().tolist() == [
        [0, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 1],
        [0, 0, 0, 0],
    ]


@pytest.mark.parametrize("num_draft_tokens", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("group_size", [1, 2, 3, 7])
@pytest.mark.parametrize("num_blocks", [1, 2, 5])
def test_every_draft_row_finds_itself_in_its_group(group_size, num_draft_tokens, num_blocks):
    """For a block of any length in the range, also where a step was made longer than its rows."""
    groups = DraftGroups(Specialists("last_layer", group_size), longest=7, shortest=1)
    num_rows = num_blocks * (1 + num_draft_tokens)
    table = groups.table(num_draft_tokens, num_rows=64, num_places=224, device=CPU)
    found = groups.places(table, num_rows)
    by_group = found.rows.view(groups.num_groups, -1)
    for row in range(num_rows):
        index = row % (1 + num_draft_tokens)
        group, place = divmod(int(found.place[row]), by_group.shape[1])
        assert group == found.group[row] == max(index - 1, 0) // group_size
        assert by_group[group, place] == (row if index else row + 1)


def test_a_block_that_was_not_planned_has_no_places():
    groups = DraftGroups(Specialists("last_layer", 2), longest=5, shortest=2)
    groups.require_planned(2)
    for length in (1, 6):
        with pytest.raises(ValueError, match=rf"2\.\.5 draft tokens, got {length}"):
            groups.require_planned(length)
