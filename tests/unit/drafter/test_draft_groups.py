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


@pytest.mark.parametrize(
    ("group_size", "shortest", "longest", "expected"),
    [
        (2, 7, 7, 16),  # 8 blocks, 2 rows each
        (7, 3, 3, 48),  # 16 blocks of 3 drafts: a group has no more than those
        (2, 1, 7, 44),  # 22 blocks of 2 drafts, the last one cut short
        (7, 1, 7, 56),  # 8 blocks of 7 drafts
        (1, 3, 7, 16),  # 16 blocks of 3 drafts
    ],
)
def test_room_is_what_the_length_needs_that_fills_a_group_most(
    group_size, shortest, longest, expected
):
    groups = DraftGroups(Specialists("last_layer", group_size), longest, shortest)
    assert groups.rows_per_group(64) == expected


@pytest.mark.parametrize("num_draft_tokens", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("group_size", [1, 2, 3, 7])
@pytest.mark.parametrize("shortest", [1, None])
def test_every_draft_row_finds_itself_in_its_group(group_size, num_draft_tokens, shortest):
    """For a block of any length in the range, and for every number of rows, padded ones too."""
    longest = num_draft_tokens if shortest is None else 7
    specialists = Specialists("last_layer", group_size)
    groups = DraftGroups(specialists, longest, shortest=shortest or longest)
    num_places = groups.rows_per_group(64)
    table = groups.table(num_draft_tokens, num_rows=64, num_places=num_places, device=CPU)
    for num_rows in range(1, 65):
        found = groups.places(table, num_rows)
        assert int(found.place.max()) < len(found.rows)
        check_rows(groups, found, num_draft_tokens, num_rows)


def check_rows(groups, found, num_draft_tokens, num_rows):
    by_group, group_size = found.rows.view(groups.num_groups, -1), groups.specialists.group_size
    for row in range(num_rows // (1 + num_draft_tokens) * (1 + num_draft_tokens)):
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
