"""Several documents in one row, so that short ones do not pay for the padding of long ones.

Nothing else changes: anchors are drawn per document before, a block sees its own document only,
and losses and reductions look at documents. Rotations depend on distances alone, so a document may
stand anywhere in its row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dpace_training.fit.batches import Batch


@dataclass(frozen=True, slots=True)
class PackedRows:
    """What the drafter reads of a batch; positions count from the start of the row."""

    taps: Float[Tensor, "rows tokens features"]
    anchors: Int[Tensor, "rows row_blocks"]
    anchor_tokens: Int[Tensor, "rows row_blocks"]
    starts: Int[Tensor, "rows row_blocks"]
    """Where the document of each block begins."""
    places: Int[Tensor, "documents blocks"]
    """Number of each document's blocks among all blocks of all rows."""


def pack(batch: Batch, *, row_tokens: int | None) -> PackedRows:
    """Lay the documents of a batch out in rows, longest first, each in the first row with room.

    Args:
        batch: Documents, each in its own padded row.
        row_tokens: Tokens of a row; a longer document has a row of its own. None gives each
            document its own row.
    """
    num_documents, num_blocks = batch.anchors.shape
    if row_tokens is None:
        return PackedRows(
            taps=batch.taps,
            anchors=batch.anchors,
            anchor_tokens=batch.anchor_tokens,
            starts=torch.zeros_like(batch.anchors),
            places=torch.arange(num_documents * num_blocks).view(num_documents, num_blocks),
        )
    rows = first_fit(batch.lengths, row_tokens)
    width = max(sum(batch.lengths[document] for document in row) for row in rows)
    widest = max(len(row) for row in rows) * num_blocks
    shape = (len(rows), widest)
    taps = batch.taps.new_zeros(len(rows), width, batch.taps.shape[-1])
    anchors, tokens, starts = (batch.anchors.new_zeros(shape) for _ in range(3))
    places = batch.anchors.new_zeros(num_documents, num_blocks)
    for index, row in enumerate(rows):
        start = 0
        for order, document in enumerate(row):
            length = batch.lengths[document]
            blocks = slice(order * num_blocks, (order + 1) * num_blocks)
            taps[index, start : start + length] = batch.taps[document, :length]
            anchors[index, blocks] = batch.anchors[document] + start
            tokens[index, blocks] = batch.anchor_tokens[document]
            starts[index, blocks] = start
            places[document] = index * widest + torch.arange(blocks.start, blocks.stop)
            start += length
    return PackedRows(taps, anchors, tokens, starts, places)


def first_fit(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Places of documents by row, longest first, each in the first row with room.

    Args:
        lengths: Tokens of each document.
        row_tokens: Most tokens of a row, but for a document that is longer alone.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        fitting = next((row for row, left in enumerate(room) if left >= lengths[place]), None)
        if fitting is None:
            rows.append([place])
            room.append(row_tokens - lengths[place])
        else:
            rows[fitting].append(place)
            room[fitting] -= lengths[place]
    return rows
