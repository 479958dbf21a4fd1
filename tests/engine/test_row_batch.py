"""Some rows of a batch carry exactly what they carried in it."""

import pytest

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def inputs():
    """Three requests of 2, 3 and 1 tokens."""
    import torch
    from vllm.v1.attention.backend import CommonAttentionMetadata

    from dpace_serve.vllm_engine.row_batch import DraftInputs

    starts = torch.tensor([0, 2, 5, 6], dtype=torch.int32)
    lengths = torch.tensor([12, 23, 31], dtype=torch.int32)
    attention = CommonAttentionMetadata(
        query_start_loc=starts,
        query_start_loc_cpu=starts,
        seq_lens=lengths,
        num_reqs=3,
        num_actual_tokens=6,
        max_query_len=3,
        max_seq_len=31,
        block_table_tensor=torch.tensor([[1, 2], [3, 4], [5, 6]], dtype=torch.int32),
        slot_mapping=torch.tensor([10, 11, 20, 21, 22, 30]),
        causal=False,
        seq_lens_cpu_upper_bound=lengths,
    )
    return DraftInputs(
        token_ids=torch.tensor([1, 2, 3, 4, 5, 6]),
        positions=torch.tensor([10, 11, 20, 21, 22, 30]),
        hidden_states=torch.arange(12.0).view(6, 2),
        next_token_ids=torch.tensor([7, 8, 9]),
        num_rejected=torch.tensor([0, 1, 0]),
        attention=attention,
    )


def test_all_rows_are_the_batch_itself(inputs):
    assert inputs.select([0, 1, 2]) is inputs


def test_the_outer_rows_carry_their_own_tokens_lengths_and_blocks(inputs):
    chosen = inputs.select([0, 2])
    assert chosen.num_requests == 2
    assert chosen.token_ids.tolist() == [1, 2, 6]
    assert chosen.positions.tolist() == [10, 11, 30]
    assert chosen.hidden_states.tolist() == [[0, 1], [2, 3], [10, 11]]
    assert chosen.next_token_ids.tolist() == [7, 9]
    assert chosen.num_rejected.tolist() == [0, 0]
    attention = chosen.attention
    assert attention.query_start_loc.tolist() == [0, 2, 3]
    assert attention.query_start_loc_cpu.tolist() == [0, 2, 3]
    assert attention.seq_lens.tolist() == [12, 31]
    assert attention.seq_lens_cpu_upper_bound.tolist() == [12, 31]
    assert attention.block_table_tensor.tolist() == [[1, 2], [5, 6]]
    assert attention.slot_mapping.tolist() == [10, 11, 30]
    assert (attention.num_reqs, attention.num_actual_tokens, attention.max_query_len) == (2, 3, 2)
    assert attention.causal is False


def test_positions_with_three_axes_keep_them(inputs):
    import dataclasses

    import torch

    axes = torch.stack([inputs.positions, inputs.positions + 100, inputs.positions + 200])
    chosen = dataclasses.replace(inputs, positions=axes).select([1])
    assert chosen.positions.tolist() == [[20, 21, 22], [120, 121, 122], [220, 221, 222]]


def test_lengths_of_a_selection_are_those_of_its_rows(inputs):
    assert (inputs.lengths, inputs.num_tokens) == ([12, 23, 31], [2, 3, 1])
    assert inputs.first_positions().tolist() == [10, 20, 30]
    some = inputs.select([0, 1])
    assert (some.lengths, some.num_tokens) == ([12, 23], [2, 3])
    assert some.first_positions().tolist() == [10, 20]
    # Not that of a longer row that stays out: nothing may reach beyond the block tables.
    assert some.attention.max_seq_len == 23


def test_rows_with_three_axes_have_the_positions_of_the_first(inputs):
    import dataclasses

    import torch

    axes = torch.stack([inputs.positions, inputs.positions + 1, inputs.positions + 2])
    assert dataclasses.replace(inputs, positions=axes).first_positions().tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    ("served_by", "rows", "expected"),
    [
        ([0, 0, 0], [0, 1, 2], [[0, 0], [0, 1], [0, 2]]),
        ([1, 0, 1], [0, 1, 2], [[1, 0], [0, 1], [1, 2]]),
        ([0, 0, 0], [0, 2], [[0, 0], [0, 0], [0, 2]]),
        ([1, 2, 1], [1, 2], [[0, 0], [2, 1], [1, 2]]),
        ([1, 2, 1], [], [[0, 0], [0, 0], [0, 0]]),
    ],
)
def test_each_row_is_drafted_by_its_slot_or_empty(served_by, rows, expected):
    import torch

    from dpace_serve.vllm_engine.row_batch import draft_by_slot

    def draft(slot, its_rows):
        return torch.tensor([[slot, row] for row in its_rows])

    drafts = draft_by_slot(draft, served_by, rows, num_draft_tokens=2, device=torch.device("cpu"))
    assert drafts.tolist() == expected
