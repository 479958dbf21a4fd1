import math

import pytest
import torch
from torch.nn import functional

from dpace_training.losses.cross_entropy import cross_entropy


def test_loss_and_gradient_of_one_position_are_those_worked_out_by_hand():
    # Probabilities 1/4 and 3/4.
    logits = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64, requires_grad=True)
    losses, most_likely = cross_entropy(logits, torch.tensor([0]))
    assert losses.tolist() == pytest.approx([math.log(4)])
    assert most_likely.tolist() == [1]
    torch.autograd.backward(2 * losses.sum())
    assert logits.grad[0].tolist() == pytest.approx([2 * (1 / 4 - 1), 2 * 3 / 4])


@pytest.mark.parametrize("scale", [0.1, 10.0, 300.0])
def test_it_is_the_cross_entropy_of_torch_with_its_gradient(scale):
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(3, 5, 17, generator=generator)
    labels = torch.randint(17, (3, 5), generator=generator)
    outer = torch.randn(3, 5, generator=generator)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    losses, most_likely = cross_entropy(ours, labels)
    expected = functional.cross_entropy(theirs.flatten(0, 1), labels.flatten(), reduction="none")
    expected = expected.view(3, 5)
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(most_likely, logits.argmax(dim=-1))
    torch.autograd.backward((losses * outer).sum())
    torch.autograd.backward((expected * outer).sum())
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-6)


def test_a_label_without_any_probability_has_a_finite_loss():
    logits = torch.tensor([[1000.0, 0.0]], requires_grad=True)
    losses, _ = cross_entropy(logits, torch.tensor([1]))
    assert losses.tolist() == [1000.0]
    torch.autograd.backward(losses.sum())
    assert logits.grad.tolist() == [[1.0, -1.0]]


def test_the_logits_are_left_as_they_are():
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(1)).requires_grad_()
    before = logits.detach().clone()
    torch.autograd.backward(cross_entropy(logits, torch.arange(4))[0].sum())
    assert torch.equal(logits.detach(), before)


def test_a_second_backward_pass_is_refused_rather_than_wrong():
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(1)).requires_grad_()
    losses, _ = cross_entropy(logits, torch.arange(4))
    torch.autograd.backward(losses.sum(), retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(losses.sum())
