import pytest
import torch

from dpace_training.fit.batches import Batch
from dpace_training.fit.packing import first_fit, pack


def test_long_documents_come_first_and_short_ones_fill_the_rows():
    assert first_fit([2, 7, 3, 5, 1], 8) == [[1, 4], [3, 2], [0]]


def test_a_document_longer_than_a_row_has_one_of_its_own():
    assert first_fit([4, 12, 4], 8) == [[1], [0, 2]]


def batch():
    """Documents of 3 and 2 tokens; each token's tap is ten times its document plus its place."""
    return Batch(
        taps=torch.tensor([[[10.0], [11.0], [12.0]], [[20.0], [21.0], [0.0]]]),
        final=None,
        anchors=torch.tensor([[1, 2], [1, 0]]),
        anchor_tokens=torch.tensor([[5, 6], [7, 0]]),
        labels=torch.zeros((2, 2, 1), dtype=torch.long),
        supervised=torch.tensor([[[True], [True]], [[True], [False]]]),
        lengths=(3, 2),
    )


def test_documents_stand_one_behind_the_other():
    rows = pack(batch(), row_tokens=8)
    assert rows.taps[..., 0].tolist() == [[10, 11, 12, 20, 21]]
    assert rows.anchors.tolist() == [[1, 2, 4, 3]]
    assert rows.starts.tolist() == [[0, 0, 3, 3]]
    assert rows.anchor_tokens.tolist() == [[5, 6, 7, 0]]
    assert rows.places.tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize("row_tokens", [None, 3])
def test_without_room_for_two_each_document_has_its_row(row_tokens):
    rows = pack(batch(), row_tokens=row_tokens)
    assert rows.taps[..., 0].tolist() == [[10, 11, 12], [20, 21, 0]]
    assert rows.anchors.tolist() == [[1, 2], [1, 0]]
    assert rows.starts.tolist() == [[0, 0], [0, 0]]
    assert rows.places.tolist() == [[0, 1], [2, 3]]
