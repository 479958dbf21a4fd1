"""What a position costs, against values worked out by hand and the identities between losses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpace_training.losses.config import LossConfig
from dpace_training.losses.predictions import BlockPredictions, TargetDistributions, predict
from dpace_training.losses.token_loss import TOKEN_LOSSES

# One position, three tokens. Overlap: .1 + .3 + .2 = .6
DRAFT = (0.5, 0.3, 0.2)
TARGET = (0.1, 0.6, 0.3)
OVERLAP = 0.6
# At temperature 2 probabilities are square roots, made to sum to 1 again.
OVERLAP_AT_2 = sum(
    min(math.sqrt(d) / sum(map(math.sqrt, DRAFT)), math.sqrt(t) / sum(map(math.sqrt, TARGET)))
    for d, t in zip(DRAFT, TARGET, strict=True)
)
KL = 0.1 * math.log(0.1 / 0.5) + 0.6 * math.log(0.6 / 0.3) + 0.3 * math.log(0.3 / 0.2)


def distributions(*rows: tuple[float, ...]) -> Tensor:
    """Logits of these distributions: one block, a position for each."""
    return torch.tensor([rows], dtype=torch.float64).log()


def predicted(
    logits: Tensor, labels: Tensor, target_logits: Tensor | None = None, temperature: float = 1.0
) -> BlockPredictions:
    supervised = torch.ones(labels.shape, dtype=torch.bool)
    target = None
    if target_logits is not None:
        rows = torch.arange(labels.numel())
        target = TargetDistributions.of(target_logits.flatten(0, 1), rows, temperature=temperature)
    return predict(
        logits.flatten(0, 1), labels.flatten(), supervised, target, temperature=temperature
    )


def soft_loss(name: str, **values) -> LossConfig:
    return LossConfig(token_loss=name, labels="soft", **values)


def cost(name: str, logits: Tensor, target_logits: Tensor, **values) -> Tensor:
    loss = soft_loss(name, **values)
    labels = torch.zeros(logits.shape[:2], dtype=torch.int64)
    predictions = predicted(logits, labels, target_logits, temperature=loss.temperature)
    return TOKEN_LOSSES[name].function(predictions, loss)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return TOKEN_LOSSES["ce"].function(predicted(logits, labels), LossConfig())


def test_cross_entropy_is_the_negative_log_probability_of_the_label():
    found = cross_entropy(
        distributions((0.8, 0.2), (0.5, 0.5), (0.75, 0.25)), torch.tensor([[0, 0, 1]])
    )
    expected = torch.tensor([[0.223143551314, 0.693147180560, 1.386294361120]], dtype=torch.float64)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_cross_entropy_ignores_a_shift_of_all_logits():
    logits = torch.tensor([[[1.0, 2.0, 3.0]]], dtype=torch.float64)
    labels = torch.tensor([[1]])
    assert torch.allclose(cross_entropy(logits + 50, labels), cross_entropy(logits, labels))


def test_the_gradient_raises_the_label_and_lowers_the_rest():
    logits = torch.zeros(1, 1, 4, requires_grad=True)
    cross_entropy(logits, torch.tensor([[2]])).sum().backward()
    assert torch.allclose(logits.grad, torch.tensor([[[0.25, 0.25, -0.75, 0.25]]]))


def test_equal_logits_cost_the_logarithm_of_the_vocabulary():
    loss = cross_entropy(torch.zeros(1, 1, 1000), torch.tensor([[7]]))
    assert math.isclose(loss.item(), math.log(1000), rel_tol=1e-6)


@pytest.mark.parametrize("name", TOKEN_LOSSES)
def test_half_precision_logits_are_summed_in_float32(name):
    logits = torch.zeros(1, 1, 60000, dtype=torch.bfloat16)
    labels = torch.tensor([[7]])
    loss = LossConfig(token_loss=name, labels="data" if name == "ce" else "soft")
    found = TOKEN_LOSSES[name].function(predicted(logits, labels, logits), loss)
    assert found.dtype == torch.float32
    expected = math.log(60000) if name == "ce" else 0
    assert math.isclose(found.item(), expected, rel_tol=1e-5, abs_tol=1e-4)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("kl", {}, KL),
        ("tv", {}, 1 - OVERLAP),
        ("neg_log_acceptance", {}, -math.log(OVERLAP)),
        ("lk_hybrid", {}, math.exp(-1.8) * KL + (1 - math.exp(-1.8)) * (1 - OVERLAP)),
        ("lk_hybrid", {"lk_eta": 0}, KL),
        ("tv", {"temperature": 2}, 1 - OVERLAP_AT_2),
    ],
)
def test_losses_on_soft_labels_are_those_worked_out_by_hand(name, values, expected):
    found = cost(name, distributions(DRAFT), distributions(TARGET), **values)
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_a_token_that_the_target_never_says_costs_no_nan():
    target = distributions((0.5, 0.5, 0.0))
    for name in ("kl", "tv", "neg_log_acceptance", "lk_hybrid"):
        logits = distributions(DRAFT).requires_grad_()
        cost(name, logits, target).sum().backward()
        assert torch.isfinite(logits.grad).all()


def test_the_gradient_of_kl_is_the_difference_of_the_distributions():
    logits = distributions(DRAFT).requires_grad_()
    cost("kl", logits, distributions(TARGET)).sum().backward()
    expected = torch.tensor(DRAFT, dtype=torch.float64) - torch.tensor(TARGET, dtype=torch.float64)
    assert torch.allclose(logits.grad[0, 0], expected, atol=1e-12)


def test_the_gradient_of_tv_is_the_one_derived_by_hand():
    logits = distributions(DRAFT).requires_grad_()
    cost("tv", logits, distributions(TARGET)).sum().backward()
    # -d(z) * ([d(z) < t(z)] - sum of d where d < t); here tokens 1 and 2 lie below, sum .5
    expected = torch.tensor([-0.5 * (0 - 0.5), -0.3 * (1 - 0.5), -0.2 * (1 - 0.5)])
    assert torch.allclose(logits.grad[0, 0], expected.double(), atol=1e-7)


def test_negative_log_acceptance_pulls_like_tv_but_harder_the_less_is_accepted():
    gradients = {}
    for name in ("tv", "neg_log_acceptance"):
        logits = distributions(DRAFT).requires_grad_()
        cost(name, logits, distributions(TARGET)).sum().backward()
        gradients[name] = logits.grad
    assert torch.allclose(gradients["neg_log_acceptance"], gradients["tv"] / OVERLAP, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=3, max_size=8), st.integers(0, 2))
def test_with_one_hot_labels_the_losses_fall_together(values, label):
    logits = torch.tensor([[values]], dtype=torch.float64)
    one_hot = torch.full_like(logits, -torch.inf)
    one_hot[..., label] = 0
    labels = torch.tensor([[label]])
    predictions = predicted(logits, labels, one_hot)
    confidence = predictions.confidence
    agreement = predictions.require_agreement()
    assert torch.allclose(agreement.overlap, confidence, atol=1e-12)
    found = {
        name: TOKEN_LOSSES[name].function(predictions, LossConfig(token_loss=name, labels="soft"))
        for name in ("kl", "tv", "neg_log_acceptance")
    }
    assert torch.allclose(found["tv"], 1 - confidence, atol=1e-12)
    assert torch.allclose(found["kl"], predictions.cross_entropy, atol=1e-9)
    # Overlap is kept away from 0, so that its logarithm is finite.
    assert torch.allclose(
        found["neg_log_acceptance"], predictions.cross_entropy.clamp_max(-math.log(1e-6)), atol=1e-9
    )


def test_an_objective_on_soft_labels_without_the_target_says_what_is_missing():
    predictions = predicted(distributions(DRAFT), torch.tensor([[0]]))
    with pytest.raises(ValueError, match="target's states"):
        TOKEN_LOSSES["kl"].function(predictions, soft_loss("kl"))
