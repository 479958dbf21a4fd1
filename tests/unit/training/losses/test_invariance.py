"""What must not change the gradient: how documents and blocks are cut up, padded and ordered."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from dpace_training.config import LossConfig
from dpace_training.losses.objective import ObjectiveStatistics, block_objective
from dpace_training.losses.reduction import ReductionCounts, block_scales, needs_weight_sum

POSITIONS, FEATURES, VOCAB = 5, 6, 11
CAPACITIES = (1, 1, 4, 4)
REDUCTIONS = ("anchor_seq", "batch", "weight_sum", "token", "block")
WEIGHTINGS = ("uniform", "exp_decay", "dpace")


@dataclass(frozen=True)
class Documents:
    """Padded documents; the model is one matrix that maps features to hidden states."""

    features: Tensor
    labels: Tensor
    supervised: Tensor

    def pick(self, *rows: int) -> "Documents":
        index = list(rows)
        return Documents(self.features[index], self.labels[index], self.supervised[index])


@pytest.fixture(name="documents")
def make_documents() -> Documents:
    """Four documents with 1, 1, 4 and 4 counted blocks, a few holes, the rest dropped."""
    generator = torch.Generator().manual_seed(5)
    shape = (len(CAPACITIES), max(CAPACITIES), POSITIONS)
    supervised = torch.rand(shape, generator=generator) < 0.8
    supervised[..., 0] = True
    for document, capacity in enumerate(CAPACITIES):
        supervised[document, capacity:] = False
    return Documents(
        torch.randn(*shape, FEATURES, generator=generator, dtype=torch.float64),
        torch.randint(VOCAB, shape, generator=generator),
        supervised,
    )


def loss_of(weighting: str, reduction: str, blocks_per_chunk: int = 64) -> LossConfig:
    return LossConfig(weighting=weighting, reduction=reduction, blocks_per_chunk=blocks_per_chunk)


def gradient(parts: list[Documents], loss: LossConfig) -> Tensor:
    """The model's gradient over one optimizer step that is cut into these parts.

    A part is a micro-batch or a rank: what they share is only what adds up.
    """
    generator = torch.Generator().manual_seed(9)
    model = torch.randn(FEATURES, FEATURES, generator=generator, dtype=torch.float64)
    head = torch.randn(VOCAB, FEATURES, generator=generator, dtype=torch.float64)
    model.requires_grad_()
    totals = ReductionCounts.of(parts[0].supervised)
    for part in parts[1:]:
        totals = totals + ReductionCounts.of(part.supervised)
    statistics = ObjectiveStatistics.zero(POSITIONS, model.device)
    for part in parts:
        scales = block_scales(part.supervised, reduction=loss.reduction, totals=totals)
        total, sums = block_objective(
            (part.features @ model).flatten(0, 1),
            head,
            part.labels.flatten(0, 1),
            part.supervised.flatten(0, 1),
            scales.flatten(),
            loss,
            POSITIONS,
        )
        total.backward()
        statistics = statistics + sums
    if needs_weight_sum(loss.reduction):
        return model.grad / statistics.weight_sum
    return model.grad


def agree(found: Tensor, expected: Tensor) -> bool:
    assert expected.abs().max() > 1e-3
    return torch.allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("split", [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0,), (1, 2, 3))])
def test_ranks_that_share_the_documents_find_the_gradient_of_one_rank(
    documents, weighting, reduction, split
):
    loss = loss_of(weighting, reduction)
    ranks = [documents.pick(*rows) for rows in split]
    assert agree(gradient(ranks, loss), gradient([documents], loss))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("split", [((0, 1), (2, 3)), ((0,), (1,), (2,), (3,))])
def test_accumulated_micro_batches_find_the_gradient_of_one_batch(documents, reduction, split):
    loss = loss_of("dpace", reduction)
    micro_batches = [documents.pick(*rows) for rows in split]
    assert agree(gradient(micro_batches, loss), gradient([documents], loss))


def test_a_mean_per_rank_would_be_wrong(documents):
    loss = loss_of("dpace", "block")
    ranks = [documents.pick(0, 1), documents.pick(2, 3)]
    mean_of_means = (gradient(ranks[:1], loss) + gradient(ranks[1:], loss)) / 2
    assert not torch.allclose(mean_of_means, gradient([documents], loss), rtol=1e-3)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("blocks_per_chunk", [1, 3])
def test_the_size_of_a_chunk_does_not_change_the_gradient(documents, weighting, blocks_per_chunk):
    found = gradient([documents], loss_of(weighting, "anchor_seq", blocks_per_chunk))
    assert agree(found, gradient([documents], loss_of(weighting, "anchor_seq")))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_order_of_documents_and_blocks_does_not_change_the_gradient(documents, reduction):
    loss = loss_of("dpace", reduction)
    turned = documents.pick(3, 1, 0, 2)
    turned = Documents(turned.features.flip(1), turned.labels.flip(1), turned.supervised.flip(1))
    assert agree(gradient([turned], loss), gradient([documents], loss))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("blocks_per_chunk", [2, 64])
def test_nan_where_nothing_is_supervised_reaches_neither_loss_nor_gradient(
    documents, weighting, reduction, blocks_per_chunk
):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(*documents.features.shape, generator=generator, dtype=torch.float64)
    head = torch.randn(VOCAB, FEATURES, generator=generator, dtype=torch.float64)
    is_padding = ~documents.supervised.unsqueeze(-1)
    loss = loss_of(weighting, reduction, blocks_per_chunk)
    scales = block_scales(
        documents.supervised,
        reduction=reduction,
        totals=ReductionCounts.of(documents.supervised),
    ).flatten()
    gradients = []
    for filler, label in ((0.0, 0), (math.nan, -100)):
        states = hidden.masked_fill(is_padding, filler).flatten(0, 1).requires_grad_()
        weight = head.clone().requires_grad_()
        labels = documents.labels.masked_fill(~documents.supervised, label).flatten(0, 1)
        total, _ = block_objective(
            states, weight, labels, documents.supervised.flatten(0, 1), scales, loss, POSITIONS
        )
        total.backward()
        gradients.append((states.grad, weight.grad))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1], gradients[1][1])
    assert gradients[0][1].abs().max() > 0


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_more_dropped_blocks_do_not_change_the_gradient(documents, reduction):
    loss = loss_of("dpace", reduction)
    dropped = replace(documents, supervised=torch.zeros_like(documents.supervised))
    padded = Documents(
        *(
            torch.cat((getattr(documents, name), getattr(dropped, name)), dim=1)
            for name in ("features", "labels", "supervised")
        )
    )
    assert agree(gradient([padded], loss), gradient([documents], loss))


@pytest.mark.parametrize("reduction", ["anchor_seq", "weight_sum", "token", "block"])
def test_a_document_without_a_counted_anchor_adds_nothing(documents, reduction):
    loss = loss_of("dpace", reduction)
    supervised = documents.supervised.clone()
    supervised[1] = False
    with_empty = replace(documents, supervised=supervised)
    assert agree(gradient([with_empty], loss), gradient([documents.pick(0, 2, 3)], loss))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_rank_with_nothing_to_learn_takes_part_with_a_zero_gradient(documents, reduction):
    nothing = replace(documents, supervised=torch.zeros_like(documents.supervised))
    loss = loss_of("dpace", reduction)
    parameter = torch.ones(FEATURES, FEATURES, dtype=torch.float64, requires_grad=True)
    total, statistics = block_objective(
        (nothing.features @ parameter).flatten(0, 1),
        torch.ones(VOCAB, FEATURES, dtype=torch.float64),
        nothing.labels.flatten(0, 1),
        nothing.supervised.flatten(0, 1),
        block_scales(
            nothing.supervised, reduction=reduction, totals=ReductionCounts.of(nothing.supervised)
        ).flatten(),
        loss,
        POSITIONS,
    )
    total.backward()
    assert total.item() == 0
    assert torch.equal(parameter.grad, torch.zeros(FEATURES, FEATURES, dtype=torch.float64))
    assert statistics.blocks.item() == 0


def test_statistics_add_over_chunks(documents):
    inputs = (
        documents.features.flatten(0, 1),
        torch.eye(VOCAB, FEATURES, dtype=torch.float64),
        documents.labels.flatten(0, 1),
        documents.supervised.flatten(0, 1),
        torch.ones(documents.labels.shape[0] * documents.labels.shape[1]),
    )
    _, whole = block_objective(*inputs, loss_of("dpace", "block"), POSITIONS)
    _, chunked = block_objective(*inputs, loss_of("dpace", "block", 3), POSITIONS)
    for name in ("positions", "weight", "token_loss", "correct", "confidence", "leading_run"):
        assert torch.allclose(getattr(whole, name), getattr(chunked, name), rtol=1e-12)
