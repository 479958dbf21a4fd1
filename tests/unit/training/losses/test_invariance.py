"""What must not change the gradient: how documents and blocks are cut up, padded and ordered."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import Tensor

from dpace_training.losses.config import LossConfig
from dpace_training.losses.objective import TargetStates, block_objective
from dpace_training.losses.reduction import (
    ReductionCounts,
    block_scales,
    joint_per_block,
    needs_weight_sum,
    needs_weights_first,
)
from dpace_training.losses.statistics import ObjectiveStatistics

POSITIONS, FEATURES, VOCAB = 5, 6, 11
CAPACITIES = (1, 1, 4, 4)
REDUCTIONS = ("anchor_seq", "batch", "weight_sum", "token", "block")
OBJECTIVES = {
    "uniform": {"recipe": "uniform"},
    "dflash": {"recipe": "dflash"},
    "dpace": {"recipe": "dpace"},
    "left_to_right": {"recipe": "left_to_right"},
    "auf": {"recipe": "auf"},
    "lk": {"recipe": "lk"},
    "expected_tau": {"recipe": "expected_tau"},
    "dpace on overlap": {"recipe": "dpace", "confidence": "overlap", "labels": "soft"},
    "reach, kl": {"weighting": "reach", "token_loss": "kl", "labels": "soft"},
}
COMBINATIONS = [(objective, reduction) for objective in OBJECTIVES for reduction in REDUCTIONS]
# `weight_sum` divides a joint term by another number than the rest.
WITH_JOINT = [("dpace", reduction) for reduction in REDUCTIONS] + [
    ("left_to_right", "weight_sum"),
    ("expected_tau", "weight_sum"),
]


@dataclass(frozen=True)
class Documents:
    """Padded documents; the model is one matrix that maps features to hidden states."""

    features: Tensor
    labels: Tensor
    supervised: Tensor
    target_states: Tensor

    def pick(self, *rows: int) -> "Documents":
        return self.map(lambda part: part[list(rows)])

    def map(self, change: Callable[[Tensor], Tensor]) -> "Documents":
        return Documents(*(change(getattr(self, field.name)) for field in fields(self)))

    def targets(self) -> TargetStates:
        states = self.target_states.flatten(0, 2)
        return TargetStates(states, torch.arange(len(states)).view(-1, POSITIONS))


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
        torch.randn(*shape, FEATURES, generator=generator, dtype=torch.float64),
    )


def loss_of(objective: str, reduction: str, blocks_per_chunk: int = 64) -> LossConfig:
    return LossConfig(
        **OBJECTIVES[objective], reduction=reduction, blocks_per_chunk=blocks_per_chunk
    )


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

    def objective(part: Documents, loss: LossConfig) -> tuple[Tensor, ObjectiveStatistics]:
        scales = block_scales(part.supervised, reduction=loss.reduction, totals=totals)
        return block_objective(
            (part.features @ model).flatten(0, 1),
            head,
            part.labels.flatten(0, 1),
            part.supervised.flatten(0, 1),
            scales.flatten(),
            loss,
            part.targets(),
        )

    weight_sum = sum(float(objective(part, loss)[1].weight_sum) for part in parts)
    if needs_weights_first(loss):
        loss = joint_per_block(loss, weight_sum=weight_sum, totals=totals)
    for part in parts:
        objective(part, loss)[0].backward()
    return model.grad / weight_sum if needs_weight_sum(loss.reduction) else model.grad


def agree(found: Tensor, expected: Tensor) -> bool:
    assert expected.abs().max() > 1e-3
    return torch.allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("objective", "reduction"), COMBINATIONS)
@pytest.mark.parametrize("split", [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0,), (1, 2, 3))])
def test_ranks_that_share_the_documents_find_the_gradient_of_one_rank(
    documents, objective, reduction, split
):
    loss = loss_of(objective, reduction)
    ranks = [documents.pick(*rows) for rows in split]
    assert agree(gradient(ranks, loss), gradient([documents], loss))


@pytest.mark.parametrize(("objective", "reduction"), WITH_JOINT)
@pytest.mark.parametrize("split", [((0, 1), (2, 3)), ((0,), (1,), (2,), (3,))])
def test_accumulated_micro_batches_find_the_gradient_of_one_batch(
    documents, objective, reduction, split
):
    loss = loss_of(objective, reduction)
    micro_batches = [documents.pick(*rows) for rows in split]
    assert agree(gradient(micro_batches, loss), gradient([documents], loss))


def test_a_mean_per_rank_would_be_wrong(documents):
    loss = loss_of("dpace", "block")
    ranks = [documents.pick(0, 1), documents.pick(2, 3)]
    mean_of_means = (gradient(ranks[:1], loss) + gradient(ranks[1:], loss)) / 2
    assert not torch.allclose(mean_of_means, gradient([documents], loss), rtol=1e-3)


@pytest.mark.parametrize(
    ("objective", "reduction"),
    [(objective, "anchor_seq") for objective in OBJECTIVES] + WITH_JOINT[-2:],
)
@pytest.mark.parametrize("blocks_per_chunk", [1, 3])
def test_the_size_of_a_chunk_does_not_change_the_gradient(
    documents, objective, reduction, blocks_per_chunk
):
    found = gradient([documents], loss_of(objective, reduction, blocks_per_chunk))
    assert agree(found, gradient([documents], loss_of(objective, reduction)))


@pytest.mark.parametrize(("objective", "reduction"), WITH_JOINT)
def test_the_order_of_documents_and_blocks_does_not_change_the_gradient(
    documents, objective, reduction
):
    loss = loss_of(objective, reduction)
    turned = documents.pick(3, 1, 0, 2).map(lambda part: part.flip(1))
    assert agree(gradient([turned], loss), gradient([documents], loss))


@pytest.mark.parametrize(("objective", "reduction"), COMBINATIONS)
@pytest.mark.parametrize("blocks_per_chunk", [2, 64])
def test_nan_where_nothing_is_supervised_reaches_neither_loss_nor_gradient(
    documents, objective, reduction, blocks_per_chunk
):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(*documents.features.shape, generator=generator, dtype=torch.float64)
    head = torch.randn(VOCAB, FEATURES, generator=generator, dtype=torch.float64)
    is_padding = ~documents.supervised.unsqueeze(-1)
    loss = loss_of(objective, reduction, blocks_per_chunk)
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
        poisoned = documents.target_states.masked_fill(is_padding, filler)
        total, _ = block_objective(
            states,
            weight,
            labels,
            documents.supervised.flatten(0, 1),
            scales,
            loss,
            replace(documents, target_states=poisoned).targets(),
        )
        total.backward()
        gradients.append((states.grad, weight.grad))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1], gradients[1][1])
    assert gradients[0][1].abs().max() > 0


@pytest.mark.parametrize(("objective", "reduction"), WITH_JOINT)
def test_more_dropped_blocks_do_not_change_the_gradient(documents, objective, reduction):
    loss = loss_of(objective, reduction)
    dropped = replace(documents, supervised=torch.zeros_like(documents.supervised))
    padded = Documents(
        *(
            torch.cat((getattr(documents, field.name), getattr(dropped, field.name)), dim=1)
            for field in fields(Documents)
        )
    )
    assert agree(gradient([padded], loss), gradient([documents], loss))


@pytest.mark.parametrize(
    ("objective", "reduction"), [pair for pair in WITH_JOINT if "batch" not in pair]
)
def test_a_document_without_a_counted_anchor_adds_nothing(documents, objective, reduction):
    loss = loss_of(objective, reduction)
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
    )
    total.backward()
    assert total.item() == 0
    assert torch.equal(parameter.grad, torch.zeros(FEATURES, FEATURES, dtype=torch.float64))
    assert statistics.blocks.item() == 0


def test_statistics_add_over_chunks(documents):
    def statistics(blocks_per_chunk):
        return block_objective(
            documents.features.flatten(0, 1),
            torch.eye(VOCAB, FEATURES, dtype=torch.float64),
            documents.labels.flatten(0, 1),
            documents.supervised.flatten(0, 1),
            torch.ones(documents.labels.shape[0] * documents.labels.shape[1]),
            loss_of("expected_tau", "block", blocks_per_chunk),
            documents.targets(),
        )[1]

    whole, chunked = statistics(64), statistics(3)
    assert whole.overlap.min() > 0
    assert whole.joint < 0
    for field in fields(ObjectiveStatistics):
        assert torch.allclose(getattr(whole, field.name), getattr(chunked, field.name), rtol=1e-12)


@pytest.mark.parametrize("objective", ["lk", "expected_tau", "dpace on overlap", "reach, kl"])
def test_blocks_may_share_rows_of_the_target_or_have_copies(objective, documents):
    shared = torch.randn(7, FEATURES, dtype=torch.float64)
    rows = torch.randint(7, (documents.labels.numel() // POSITIONS, POSITIONS))
    copies = shared[rows].flatten(0, 1)
    own_rows = torch.arange(len(copies)).view(rows.shape)
    head = torch.randn(VOCAB, FEATURES, dtype=torch.float64)

    def hidden_gradient(targets: TargetStates) -> Tensor:
        hidden = documents.features.flatten(0, 1).clone().requires_grad_()
        supervised = documents.supervised.flatten(0, 1)
        scale = torch.ones(len(hidden), dtype=torch.float64)
        labels = documents.labels.flatten(0, 1)
        loss = loss_of(objective, "batch", blocks_per_chunk=3)
        block_objective(hidden, head, labels, supervised, scale, loss, targets)[0].backward()
        return hidden.grad

    expected = hidden_gradient(TargetStates(copies, own_rows))
    assert agree(hidden_gradient(TargetStates(shared, rows)), expected)
