"""Packed rows against documents read one by one."""

import itertools

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from dpace_training.demo.packing import IGNORED_LABEL, packed_rows

DOCUMENTS = [([5, 6, 7, 8], 2), ([9, 10, 11], 1), ([12, 13, 14, 15, 16], 3), ([17, 18], 1)]


@pytest.fixture
def rows():
    return next(packed_rows(itertools.cycle(DOCUMENTS), rows=2, tokens=8))


def test_a_document_goes_into_the_first_row_it_fits(rows):
    assert rows.input_ids.tolist() == [
        [5, 6, 7, 8, 9, 10, 11, 0],
        [12, 13, 14, 15, 16, 17, 18, 0],
    ]


def test_positions_start_anew_in_each_document(rows):
    assert rows.position_ids[0].tolist() == [0, 1, 2, 3, 0, 1, 2, 0]


def test_prompts_and_padding_carry_no_label(rows):
    ignored = IGNORED_LABEL
    assert rows.labels[0].tolist() == [ignored, ignored, 7, 8, ignored, 10, 11, ignored]


def test_no_document_is_lost_between_batches():
    batches = itertools.islice(packed_rows(itertools.cycle(DOCUMENTS), rows=2, tokens=8), 5)
    seen = [int(token) for rows in batches for token in rows.input_ids.flatten() if token]
    wanted = itertools.cycle([token for ids, _ in DOCUMENTS for token in ids])
    assert sorted(seen) == sorted(itertools.islice(wanted, len(seen)))


def test_a_packed_document_is_computed_as_if_it_were_alone(rows):
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=32,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
        )
    )
    with torch.no_grad():
        packed = model(
            input_ids=rows.input_ids,
            attention_mask=rows.attention(),
            position_ids=rows.position_ids,
        ).logits
        alone = model(input_ids=torch.tensor([[9, 10, 11]])).logits
    torch.testing.assert_close(packed[0, 4:7], alone[0], atol=1e-5, rtol=1e-5)
