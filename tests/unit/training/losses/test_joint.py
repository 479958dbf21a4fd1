"""Joint terms against hand-computed vectors, and what ties them to D-PACE and to each other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpace_training.losses.config import LossConfig
from dpace_training.losses.joint import expected_accepted
from dpace_training.losses.objective import TargetStates, block_objective

V1 = (0.8, 0.5, 0.25, 0.1)
HOLE_AT_2 = torch.tensor([[True, False, True, True]])


def logits_with(confidences: tuple[float, ...]) -> Tensor:
    label = torch.tensor([confidences], dtype=torch.float64)
    return torch.stack((label, 1 - label), dim=-1).log().requires_grad_()


def objective(logits: Tensor, supervised: Tensor | None = None, **values) -> Tensor:
    """The objective of one block whose labels, and target, are token 0 everywhere."""
    if supervised is None:
        supervised = torch.ones(logits.shape[:2], dtype=torch.bool)
    positions = logits.shape[1]
    certain = torch.tensor([[0.0, -1e9]], dtype=torch.float64).expand(positions, 2)
    total, _ = block_objective(
        logits,
        torch.eye(2, dtype=torch.float64),
        torch.zeros(1, positions, dtype=torch.int64),
        supervised,
        torch.ones(1, dtype=torch.float64),
        LossConfig(**values),
        TargetStates(certain, torch.arange(positions).unsqueeze(0)),
    )
    return total


def joint_part(logits: Tensor, supervised: Tensor | None = None, **values) -> Tensor:
    """What the joint term adds to the plain token losses."""
    plain = objective(logits, supervised, weighting="uniform")
    return objective(logits, supervised, weighting="uniform", **values) - plain


def test_expected_acceptance_is_the_sum_of_the_chain():
    found = expected_accepted(torch.tensor([V1]).log(), torch.ones(1, 4, dtype=torch.bool))
    assert found.item() == pytest.approx(0.8 + 0.4 + 0.1 + 0.01)


def test_the_chain_loss_is_the_one_computed_by_hand():
    logits = logits_with(V1)
    chain = joint_part(logits, joint="chain", joint_scale=40)
    assert chain.item() == pytest.approx(-13.1, abs=1e-10)
    # By the label's logit: -(40 / 4) * sum of the chain from here on * (1 - q)
    (gradient,) = torch.autograd.grad(chain, logits)
    expected = torch.tensor(
        [-10 * s * (1 - q) for s, q in zip((1.31, 0.51, 0.11, 0.01), V1, strict=True)],
        dtype=torch.float64,
    )
    assert torch.allclose(gradient[0, :, 0], expected, atol=1e-10)


def test_a_hole_neither_counts_nor_ends_the_chain():
    # .8, .8 * .25, .8 * .25 * .1 over three positions
    chain = joint_part(logits_with(V1), HOLE_AT_2, joint="chain", joint_scale=1)
    assert chain.item() == pytest.approx(-(0.8 + 0.2 + 0.02) / 3, abs=1e-12)


def test_the_stack_is_the_sum_of_its_three_parts():
    logits = logits_with(V1)
    decay = objective(logits, recipe="positional")
    chain = joint_part(logits, recipe="chain")
    # Position 3 is the first whose most likely token is not the label; it costs ln 4.
    focal = 0.3 * 1.386294361120
    assert objective(logits, recipe="left_to_right").item() == pytest.approx(
        (decay + chain).item() + focal, abs=1e-10
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0.05, 0.95), st.booleans()), min_size=1, max_size=12))
def test_the_chain_pulls_like_dpace_at_alpha_zero(positions):
    confidences = tuple(confidence for confidence, _ in positions)
    supervised = torch.tensor([[is_supervised for _, is_supervised in positions]])
    supervised[0, 0] = True
    gradients = []
    for part in (
        lambda logits: joint_part(logits, supervised, joint="chain", joint_scale=7.0),
        lambda logits: objective(logits, supervised, weighting="dpace", alpha=0.0),
    ):
        logits = logits_with(confidences)
        gradients.append(torch.autograd.grad(part(logits), logits)[0])
    chain, dpace = gradients
    assert torch.allclose(chain, dpace * 7.0 / supervised.sum(), atol=1e-10)


def test_with_one_hot_labels_expected_tau_is_the_chain():
    values = {}
    for name, labels in (("chain", "data"), ("expected_tau", "soft")):
        logits = logits_with(V1)
        total = joint_part(logits, joint=name, joint_scale=3.0, labels=labels)
        values[name] = (total.item(), torch.autograd.grad(total, logits)[0])
    assert values["chain"][0] == pytest.approx(values["expected_tau"][0], abs=1e-9)
    assert torch.allclose(values["chain"][1], values["expected_tau"][1], atol=1e-9)
