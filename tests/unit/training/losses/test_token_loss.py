"""Cross entropy per position."""

import math

import torch

from dpace_training.losses.token_loss import cross_entropy


def test_cross_entropy_is_the_negative_log_probability_of_the_label():
    probabilities = torch.tensor([[[0.8, 0.2], [0.5, 0.5], [0.75, 0.25]]], dtype=torch.float64)
    found = cross_entropy(probabilities.log(), torch.tensor([[0, 0, 1]]))
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


def test_half_precision_logits_are_summed_in_float32():
    loss = cross_entropy(torch.zeros(1, 1, 60000, dtype=torch.bfloat16), torch.tensor([[7]]))
    assert loss.dtype == torch.float32
    assert math.isclose(loss.item(), math.log(60000), rel_tol=1e-5)
