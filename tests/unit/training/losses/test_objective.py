"""The objective against hand-computed vectors: value, gradient, statistics, memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpace_training.losses.config import LossConfig
from dpace_training.losses.objective import block_objective
from dpace_training.losses.reduction import ReductionCounts, block_scales, joint_per_block

V1 = (0.8, 0.5, 0.25, 0.1)
HOLE_AT_2 = (True, False, True, True)
LN_2 = 0.69314718056


def logits_with(*blocks: tuple[float, ...]) -> Tensor:
    """Logits over two tokens that give token 0, the label everywhere, these probabilities."""
    label = torch.tensor(blocks, dtype=torch.float64)
    return torch.stack((label, 1 - label), dim=-1).log().requires_grad_()


def objective_of(logits: Tensor, loss: LossConfig, supervised: Tensor | None = None):
    """The bare numerator: with an identity as head the hidden states are the logits."""
    if supervised is None:
        supervised = torch.ones(logits.shape[:2], dtype=torch.bool)
    head = torch.eye(logits.shape[-1], dtype=logits.dtype)
    labels = torch.zeros(logits.shape[:2], dtype=torch.int64)
    scales = torch.ones(len(logits), dtype=torch.float64)
    return block_objective(logits, head, labels, supervised, scales, loss)


def dpace(alpha: float = 0.5, variant: str = "full") -> LossConfig:
    return LossConfig(weighting="dpace", alpha=alpha, variant=variant)


def exp_decay(gamma: float) -> LossConfig:
    return LossConfig(weighting="exp_decay", gamma=gamma)


@pytest.mark.parametrize(
    ("loss", "numerator", "per_weight"),
    [
        (dpace(), 2.859271921022, 0.643436719217),
        (dpace(variant="cumulative_only"), 1.787818174017, 0.802105595072),
        (dpace(variant="continuation_only"), 6.368603815759, 0.910410194792),
        (exp_decay(4), 2.691461334494, 0.941828471276),
        (exp_decay(7), 3.365780120181, 1.029355324059),
        (exp_decay(10), 3.691127874319, 1.065449247538),
        (LossConfig(weighting="uniform"), 4.605170185988, 1.151292546497),
        (dpace(alpha=1), 8.047189562171, 0.8047189562171),
        (dpace(alpha=1, variant="cumulative_only"), 4.605170185988, 1.151292546497),
        (dpace(alpha=0), 0.821341344960, 0.821341344960 / 1.94),
    ],
)
def test_the_loss_of_one_block_is_the_one_computed_by_hand(loss, numerator, per_weight):
    total, statistics = objective_of(logits_with(V1), loss)
    assert total.item() == pytest.approx(numerator, abs=1e-11)
    assert (total / statistics.weight_sum).item() == pytest.approx(per_weight, abs=1e-11)


@pytest.mark.parametrize(
    ("loss", "numerator"),
    [
        (dpace(), 2.316420139231),
        (dpace(variant="cumulative_only"), 1.692982037458),
        (dpace(variant="continuation_only"), 4.890655219380),
    ],
)
def test_the_loss_of_a_block_with_a_hole_is_the_one_computed_by_hand(loss, numerator):
    total, _ = objective_of(logits_with(V1), loss, torch.tensor([HOLE_AT_2]))
    assert total.item() == pytest.approx(numerator, abs=1e-11)


def test_denominators_of_a_block_with_a_hole_skip_the_hole():
    supervised = torch.tensor([HOLE_AT_2])
    total, statistics = objective_of(logits_with(V1), dpace(), supervised)
    assert (total / statistics.weight_sum).item() == pytest.approx(0.784396237623, abs=1e-11)
    assert (total / statistics.positions.sum()).item() == pytest.approx(0.772140046410, abs=1e-11)
    total, statistics = objective_of(logits_with(V1), exp_decay(7), supervised)
    assert (total / statistics.weight_sum).item() == pytest.approx(1.150646025352, abs=1e-11)


def test_equal_confidences_cost_one_half_bit_per_weight():
    total, statistics = objective_of(logits_with((0.5,) * 15), dpace())
    assert total.item() == pytest.approx(7.789783983382, abs=1e-10)
    assert (total / statistics.weight_sum).item() == pytest.approx(LN_2, abs=1e-11)


def test_the_gradient_by_the_label_logit_is_the_weight_times_the_missing_confidence():
    logits = logits_with(V1)
    total, _ = objective_of(logits, dpace())
    total.backward()
    expected = torch.tensor(
        [[-0.44578125, -0.664453125, -0.4904296875, -0.208828125]], dtype=torch.float64
    )
    assert torch.allclose(logits.grad[..., 0], expected, rtol=0, atol=1e-11)
    assert torch.allclose(logits.grad[..., 1], -expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("loss", [LossConfig(weighting="uniform"), exp_decay(4), dpace()])
def test_every_objective_raises_the_label_and_lowers_the_other_token(loss):
    logits = logits_with(V1)
    objective_of(logits, loss)[0].backward()
    assert (logits.grad[..., 0] < 0).all()
    assert (logits.grad[..., 1] > 0).all()


@pytest.mark.parametrize("loss", [LossConfig(weighting="uniform"), exp_decay(4), dpace(alpha=1)])
def test_a_single_position_costs_its_cross_entropy(loss):
    total, _ = objective_of(logits_with((0.5,)), loss)
    assert total.item() == pytest.approx(LN_2, abs=1e-11)


def test_a_decay_without_end_is_uniform():
    total, _ = objective_of(logits_with(V1), exp_decay(1e12))
    assert total.item() == pytest.approx(4.605170185988, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0.05, 0.95), st.booleans()), min_size=1, max_size=15))
def test_at_alpha_zero_dpace_descends_expected_acceptance(positions):
    confidences = tuple(confidence for confidence, _ in positions)
    supervised = torch.tensor([[is_supervised for _, is_supervised in positions]])
    logits = logits_with(confidences)
    total, _ = objective_of(logits, dpace(alpha=0), supervised)
    total.backward()

    direct = logits_with(confidences)
    label_probability = direct.softmax(dim=-1)[0, :, 0]
    chain, expected_accepted = torch.ones((), dtype=torch.float64), 0 * label_probability.sum()
    for position, (_, is_supervised) in enumerate(positions):
        if is_supervised:
            chain = chain * label_probability[position]
            expected_accepted = expected_accepted + chain
    (-expected_accepted).backward()
    assert torch.allclose(logits.grad, direct.grad, rtol=0, atol=1e-10)


V6_BLOCKS = (V1, (0.9,) * 4, (0.6,) * 4)
V6_SUPERVISED = torch.tensor([[[True] * 4, [True] * 4], [[True] * 4, [False] * 4]])


V6_TOTALS = ReductionCounts.of(V6_SUPERVISED)


def numerator_of_v6(logits: Tensor, loss: LossConfig):
    """Document 1 has two blocks, document 2 one and a dropped one."""
    scales = block_scales(V6_SUPERVISED, reduction=loss.reduction, totals=V6_TOTALS).flatten()
    return block_objective(
        logits,
        torch.eye(2, dtype=torch.float64),
        torch.zeros(4, 4, dtype=torch.int64),
        V6_SUPERVISED.flatten(0, 1),
        scales,
        loss,
    )


def v6_logits() -> Tensor:
    return logits_with(*V6_BLOCKS, (0.3,) * 4)


def reduced(reduction: str) -> float:
    total, statistics = numerator_of_v6(v6_logits(), LossConfig(reduction=reduction))
    if reduction == "weight_sum":
        total = total / statistics.weight_sum
    return total.item()


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("batch", 3.223944954769),
        ("weight_sum", 0.352665542300),
        ("token", 0.537324159128),
        ("anchor_seq", 2.282993016764),
        ("block", 2.149296636513),
    ],
)
def test_each_reduction_of_two_documents_is_the_one_computed_by_hand(reduction, expected):
    assert reduced(reduction) == pytest.approx(expected, abs=1e-11)


def test_beside_a_weight_sum_the_joint_term_is_a_mean_over_counted_blocks():
    loss = LossConfig(recipe="dpace", joint="chain", joint_scale=2, reduction="weight_sum")
    logits = v6_logits()
    weight_sum = 4.44375 + 8.58515 + 5.2544
    assert numerator_of_v6(logits, loss)[1].weight_sum.item() == pytest.approx(weight_sum)

    loss = joint_per_block(loss, weight_sum=weight_sum, totals=V6_TOTALS)
    total = numerator_of_v6(logits, loss)[0] / weight_sum
    # Mean confidence chains: (.8 + .4 + .1 + .01) / 4, (.9 + .81 + .729 + .6561) / 4 and
    # (.6 + .36 + .216 + .1296) / 4; their mean over three blocks counts twice.
    chains = (0.3275 + 0.773775 + 0.3264) / 3
    assert total.item() == pytest.approx(0.352665542300 - 2 * chains, abs=1e-11)

    # By the label's logit in the first block: weight * (q - 1) / all weights, and
    # -(2 / 3 blocks) / 4 positions * sum of the chain from here on * (1 - q).
    (gradient,) = torch.autograd.grad(total, logits)
    of_weights = (-0.44578125, -0.664453125, -0.4904296875, -0.208828125)
    of_chain = (1.31 * 0.2, 0.51 * 0.5, 0.11 * 0.75, 0.01 * 0.9)
    expected = [w / weight_sum - c / 6 for w, c in zip(of_weights, of_chain, strict=True)]
    assert gradient[0, :, 0].tolist() == pytest.approx(expected, abs=1e-11)


def test_statistics_are_sums_per_draft_position():
    supervised = torch.tensor([[True] * 4, list(HOLE_AT_2), [False] * 4])
    _, statistics = objective_of(logits_with(V1, (0.9,) * 4, V1), dpace(), supervised)
    assert statistics.positions.tolist() == [2, 1, 2, 2]
    assert statistics.blocks.item() == 2
    assert statistics.mean_confidence.tolist() == pytest.approx([0.85, 0.5, 0.575, 0.5])
    assert statistics.mean_token_loss[1].item() == pytest.approx(LN_2)
    assert statistics.weight_share.sum().item() == pytest.approx(1)
    # V1 is right at .8, at the tie of .5 by order, and wrong at .25 and .1.
    assert statistics.accuracy.tolist() == pytest.approx([1, 1, 0.5, 0.5])


@pytest.mark.parametrize(
    ("is_right", "supervised", "run"),
    [
        ((1, 1, 0, 1), (1, 1, 1, 1), 2),
        ((1, 1, 1, 1), (1, 1, 1, 1), 4),
        ((0, 1, 1, 1), (1, 1, 1, 1), 0),
        ((1, 0, 1, 0), (1, 1, 1, 1), 1),
        ((1, 0, 1, 0), (1, 0, 1, 1), 2),  # a hole neither ends a run nor counts
    ],
)
def test_the_leading_run_ends_at_the_first_wrong_position(is_right, supervised, run):
    logits = logits_with(tuple(0.9 if right else 0.1 for right in is_right))
    _, statistics = objective_of(logits, dpace(), torch.tensor([supervised]).bool())
    assert statistics.mean_leading_run.item() == run


def test_statistics_of_accept_until_fail_are_of_the_positions_that_decoding_settles():
    logits = logits_with((0.9, 0.1, 0.9))
    supervised = torch.ones(1, 3, dtype=torch.bool)
    _, statistics = objective_of(logits, LossConfig(recipe="auf"), supervised)
    assert statistics.positions.tolist() == [1, 1, 0]
    assert statistics.correct.tolist() == [1, 0, 0]
    assert statistics.mean_leading_run.item() == 1
