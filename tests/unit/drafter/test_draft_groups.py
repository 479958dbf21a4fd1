"""Where groups lie among the rows of a step, by hand."""

import pytest
import torch

from dpace_serve.drafter.draft_groups import DraftGroups
from dpace_serve.drafter.specialists import Specialists

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")


def groups_of(group_size, longest, shortest=None, rank=0):
    kind = "low_rank" if rank else "last_layer"
    return DraftGroups(Specialists(kind, group_size, rank), longest, shortest or longest)


def places_of(groups, num_draft_tokens, num_rows):
    num_places = groups.rows_per_group(num_rows)
    table = groups.table(num_draft_tokens, num_rows=num_rows, num_places=num_places, device=CPU)
    return groups.places(table, num_rows)


def test_two_blocks_of_three_drafts_in_groups_of_two():
    places = places_of(groups_of(2, 3), 3, 8)
    # Rows: anchor, drafts 1, 2, 3, twice. Drafts 1 and 2 are one group, draft 3 is the other.
    assert places.group.tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    # The last group has one position of two, so every second of its places is nobody's.
    assert places.rows.view(2, 4).tolist() == [[1, 2, 5, 6], [3, 3, 7, 7]]
    assert places.place.tolist() == [0, 0, 1, 4, 2, 2, 3, 6]


def test_a_row_is_where_its_place_says_it_is():
    for group_size in (1, 2, 3, 7):
        for num_draft_tokens in (7, 4, 1):
            groups = groups_of(group_size, 7, shortest=1)
            num_rows = 5 * (1 + num_draft_tokens)
            places = places_of(groups, num_draft_tokens, num_rows)
            row = torch.arange(num_rows)
            is_draft = row % (1 + num_draft_tokens) > 0
            assert places.rows[places.place][is_draft].tolist() == row[is_draft].tolist()
            # An anchor is where its first draft is.
            assert places.rows[places.place][~is_draft].tolist() == (row[~is_draft] + 1).tolist()
            per_group = len(places.rows) // groups.num_groups
            assert (places.place // per_group).tolist() == places.group.tolist()


def test_a_step_may_end_inside_a_block():
    groups = groups_of(2, 3)
    places = places_of(groups, 3, 6)  # the second block lacks two rows: padding
    assert places.group.tolist() == [0, 0, 0, 1, 0, 0]
    assert int(places.rows.max()) == 5


def test_a_row_shares_its_groups_inner_values_and_an_anchor_none():
    shares = groups_of(2, 3, rank=2).shares(3, num_rows=5, device=CPU)
    assert shares.int().tolist() == [
        [0, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 1],
        [0, 0, 0, 0],
    ]


def test_groups_that_no_draft_reaches_have_no_place():
    assert groups_of(2, 7).num_groups == 4
    assert groups_of(2, 4).num_groups == 2
    assert groups_of(2, 7, shortest=1).rows_per_group(8) == 8  # up to four blocks of two rows


@pytest.mark.parametrize("length", [1, 8])
def test_blocks_that_are_not_planned_are_refused(length):
    with pytest.raises(ValueError, match=rf"2\.\.7 draft tokens, got {length}"):
        groups_of(2, 7, shortest=2).require_planned(length)
