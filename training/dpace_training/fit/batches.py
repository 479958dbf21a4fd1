"""The order of the documents, and what one optimizer step sees of them."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dpace_training.config import FitConfig
from dpace_training.data.anchors import (
    anchor_generator,
    block_targets,
    covered_tokens,
    sample_anchors,
)
from dpace_training.data.hidden_states import UNKNOWN_TOKEN, FeatureSource
from dpace_training.data.tokenize import TokenizedConversation
from dpace_training.losses.config import LabelSource
from dpace_training.losses.objective import TargetStates

BATCHES_SORTED_TOGETHER = 32


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents padded to one width; padding and dropped blocks are unsupervised.

    Draft positions run from 1; index 0 of the last axis of `labels` is draft position 1. `final`
    is there where the objective looks at the target's distribution.
    """

    taps: Float[Tensor, "documents tokens features"]
    final: Float[Tensor, "documents tokens hidden"] | None
    anchors: Int[Tensor, "documents blocks"]
    anchor_tokens: Int[Tensor, "documents blocks"]
    labels: Int[Tensor, "documents blocks positions"]
    supervised: Bool[Tensor, "documents blocks positions"]
    lengths: tuple[int, ...]
    """Tokens of each document."""

    def unsupervised(self) -> "Batch":
        """The same shapes with nothing to learn."""
        return replace(self, supervised=torch.zeros_like(self.supervised))

    def target_states(self, device: torch.device) -> TargetStates | None:
        """Final states of all documents in one row, and where each draft position is predicted."""
        if self.final is None:
            return None
        num_documents, num_tokens, _ = self.final.shape
        # The state at the token before predicts a draft position: at the anchor, the first one.
        offsets = torch.arange(self.labels.shape[-1])
        starts = torch.arange(num_documents).view(-1, 1, 1) * num_tokens
        within = (self.anchors.unsqueeze(-1) + offsets).clamp_max(num_tokens - 1)
        return TargetStates(
            states=self.final.flatten(0, 1).to(device),
            rows=(starts + within).flatten(0, 1).to(device),
        )


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
    labels: LabelSource,
    epoch: int,
) -> Batch:
    """Draw the anchors of these documents in this epoch and lay everything out as tensors.

    Args:
        documents: All documents of the run.
        features: The target's hidden states of these documents.
        indices: Places of the batch's documents.
        block_size: Anchor and draft positions of a block.
        fit: Seed, number of anchors and whether blocks may run out of the document.
        labels: The text's own tokens, or the target's most likely ones.
        epoch: Number of the epoch, from 0; another epoch draws other anchors.
    """
    found = features.of(indices)
    rows = []
    for index, feature in zip(indices, found, strict=True):
        token_ids = torch.tensor(documents[index].token_ids)
        wanted = token_ids if labels == "data" else _most_likely(token_ids, feature.next_token)
        rows.append(
            _document_blocks(
                documents[index], token_ids, wanted, block_size=block_size, fit=fit, epoch=epoch
            )
        )
    finals = [feature.final.float() for feature in found if feature.final is not None]
    return Batch(
        taps=_stack([feature.taps.float() for feature in found]),
        final=_stack(finals) if finals else None,
        anchors=_stack([row[0] for row in rows]),
        anchor_tokens=_stack([row[1] for row in rows]),
        labels=_stack([row[2] for row in rows]),
        supervised=_stack([row[3] for row in rows]),
        lengths=tuple(len(documents[index].token_ids) for index in indices),
    )


def supervised_positions(
    documents: Sequence[TokenizedConversation],
    indices: Sequence[int],
    *,
    block_size: int,
    fit: FitConfig,
    epoch: int,
) -> Bool[Tensor, "documents blocks positions"]:
    """What `make_batch` will call supervised, from loss masks and anchors alone.

    So a step knows the denominators of its reduction before it reads any features.

    Args:
        documents: All documents of the run.
        indices: Places of the batch's documents.
        block_size: Anchor and draft positions of a block.
        fit: Seed, number of anchors and whether blocks may run out of the document.
        epoch: Number of the epoch, from 0; another epoch draws other anchors.
    """
    rows = []
    for index in indices:
        token_ids = torch.tensor(documents[index].token_ids)
        *_, supervised = _document_blocks(
            documents[index], token_ids, token_ids, block_size=block_size, fit=fit, epoch=epoch
        )
        rows.append(supervised)
    return _stack(rows)


def anchor_coverage(
    documents: Sequence[TokenizedConversation], *, block_size: int, fit: FitConfig
) -> float:
    """Share of the tokens to learn from that blocks of the first epoch predict; nan without any.

    What is missing was not drawn, or can stand behind no anchor: the first token of an answer.
    """
    covered = total = 0
    for document in documents:
        loss_mask = torch.tensor(document.loss_mask)
        anchors = _drawn_anchors(document, loss_mask, block_size=block_size, fit=fit, epoch=0)
        covered += covered_tokens(loss_mask, anchors, block_size=block_size)
        total += int(loss_mask.sum())
    return covered / total if total else math.nan


def _drawn_anchors(
    document: TokenizedConversation,
    loss_mask: Bool[Tensor, " tokens"],
    *,
    block_size: int,
    fit: FitConfig,
    epoch: int,
) -> Int[Tensor, " blocks"]:
    return sample_anchors(
        loss_mask,
        block_size=block_size,
        num_anchors=fit.num_anchors,
        generator=anchor_generator(fit.seed, epoch, document.document_id),
        allow_tail=fit.allow_tail,
    )


def _most_likely(
    token_ids: Int[Tensor, " tokens"], next_token: Int[Tensor, " tokens"]
) -> Int[Tensor, " tokens"]:
    """At each token what the target would have written there, where that is known."""
    predicted = torch.full_like(token_ids, UNKNOWN_TOKEN)
    predicted[1:] = next_token[:-1]
    return torch.where(predicted == UNKNOWN_TOKEN, token_ids, predicted)


def _document_blocks(
    document: TokenizedConversation,
    token_ids: Int[Tensor, " tokens"],
    wanted: Int[Tensor, " tokens"],
    *,
    block_size: int,
    fit: FitConfig,
    epoch: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss_mask = torch.tensor(document.loss_mask)
    anchors = _drawn_anchors(document, loss_mask, block_size=block_size, fit=fit, epoch=epoch)
    labels, supervised = block_targets(wanted, loss_mask, anchors, block_size=block_size)
    return anchors, token_ids[anchors], labels, supervised


def _stack(rows: Sequence[Tensor]) -> Tensor:
    # Zeros behind a document's own blocks: anchor 0 sees no context, and nothing is supervised.
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
