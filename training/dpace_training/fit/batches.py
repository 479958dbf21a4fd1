"""The order of the documents, and what one optimizer step sees of them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dpace_training.config import FitConfig
from dpace_training.data.anchors import anchor_generator, block_targets, sample_anchors
from dpace_training.data.hidden_states import FeatureSource
from dpace_training.data.tokenize import TokenizedConversation

BATCHES_SORTED_TOGETHER = 32


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents padded to one width; padding and dropped blocks are unsupervised.

    Draft positions run from 1; index 0 of the last axis of `labels` is draft position 1.
    """

    taps: Float[Tensor, "documents tokens features"]
    anchors: Int[Tensor, "documents blocks"]
    anchor_tokens: Int[Tensor, "documents blocks"]
    labels: Int[Tensor, "documents blocks positions"]
    supervised: Bool[Tensor, "documents blocks positions"]


def epoch_batches(
    lengths: Sequence[int], *, batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """Order of one epoch: each document once, in batches of similar length, in random order.

    The same seed and epoch give the same batches. Documents are shuffled, sorted by length within
    a window of some batches, and the batches are shuffled again.

    Args:
        lengths: Tokens of each document.
        batch_size: Documents in a batch; the last batch of the epoch may be smaller.
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    window = batch_size * BATCHES_SORTED_TOGETHER
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        part = sorted(order[start : start + window], key=lambda index: lengths[index])
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    rng.shuffle(batches)
    return batches


def make_batch(
    documents: Sequence[TokenizedConversation],
    features: FeatureSource,
    indices: Sequence[int],
    *,
    block_size: int,
    fit: FitConfig,
    epoch: int,
) -> Batch:
    """Draw the anchors of these documents in this epoch and lay everything out as tensors.

    Args:
        documents: All documents of the run.
        features: The target's hidden states of these documents.
        indices: Places of the batch's documents.
        block_size: Anchor and draft positions of a block.
        fit: Seed, number of anchors and whether blocks may run out of the document.
        epoch: Number of the epoch, from 0; another epoch draws other anchors.
    """
    rows = [
        _document_blocks(documents[index], block_size=block_size, fit=fit, epoch=epoch)
        for index in indices
    ]
    taps = [feature.taps.float() for feature in features.of(indices)]
    return Batch(
        taps=torch.nn.utils.rnn.pad_sequence(taps, batch_first=True),
        anchors=_stack([row[0] for row in rows]),
        anchor_tokens=_stack([row[1] for row in rows]),
        labels=_stack([row[2] for row in rows]),
        supervised=_stack([row[3] for row in rows]),
    )


def _document_blocks(
    document: TokenizedConversation, *, block_size: int, fit: FitConfig, epoch: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    token_ids = torch.tensor(document.token_ids)
    loss_mask = torch.tensor(document.loss_mask)
    anchors = sample_anchors(
        loss_mask,
        block_size=block_size,
        num_anchors=fit.num_anchors,
        generator=anchor_generator(fit.seed, epoch, document.document_id),
        allow_tail=fit.allow_tail,
    )
    labels, supervised = block_targets(token_ids, loss_mask, anchors, block_size=block_size)
    return anchors, token_ids[anchors], labels, supervised


def _stack(rows: Sequence[Tensor]) -> Tensor:
    # Zeros behind a document's own blocks: anchor 0 sees no context, and nothing is supervised.
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
