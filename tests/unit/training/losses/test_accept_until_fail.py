"""Losses of a block up to its first wrong draft, against numbers worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from dpace_training.losses.config import LossConfig
from dpace_training.losses.objective import block_objective
from dpace_training.losses.predictions import BlockPredictions
from dpace_training.losses.token_loss import TOKEN_LOSSES
from dpace_training.losses.weighting import position_weights

V1 = (0.8, 0.5, 0.25, 0.1)
LABEL, RIVAL, VOCAB = 1, 0, 32


def block_logits(confidences, right) -> Tensor:
    """Logits that give token 1, the label everywhere, these probabilities.

    A wrong draft is token 0, which has all the rest, and goes first where they are equal; around a
    right one the rest is spread evenly.
    """
    probs = torch.zeros(1, len(confidences), VOCAB, dtype=torch.float64)
    for position, (confidence, is_right) in enumerate(zip(confidences, right, strict=True)):
        probs[0, position] = (1 - confidence) / (VOCAB - 1) if is_right else 1e-300
        if not is_right:
            probs[0, position, RIVAL] = 1 - confidence
        probs[0, position, LABEL] = confidence
    assert (probs.argmax(dim=-1) == LABEL).tolist() == [[bool(is_right) for is_right in right]]
    return probs.log().requires_grad_()


def objective(logits: Tensor, **settings):
    positions = logits.shape[1]
    return block_objective(
        logits,
        torch.eye(VOCAB, dtype=torch.float64),
        torch.full((1, positions), LABEL),
        torch.ones(1, positions, dtype=torch.bool),
        torch.ones(1, dtype=torch.float64),
        LossConfig(**settings),
    )


# Confidences, which drafts are right, positions of the support, its sum of cross-entropies, and
# 0.3 times that of the first error.
VECTORS = [
    (V1, (1, 1, 0, 1), 3, 2.302585092994, 0.415888308336),
    (V1, (1, 1, 1, 1), 4, 4.605170185988, 0),
    # Nothing can be wrong at .8, so the first error takes the place of .25.
    ((0.25, 0.8, 0.5, 0.1), (0, 1, 1, 1), 1, 1.386294361120, 0.415888308336),
    (V1, (1, 0, 1, 0), 2, 0.916290731874, 0.207944154168),
]


@pytest.mark.parametrize(("confidences", "right", "support", "total", "bonus"), VECTORS)
def test_the_loss_is_the_cross_entropy_up_to_the_first_error(
    confidences, right, support, total, bonus
):
    logits = block_logits(confidences, right)
    found, statistics = objective(logits, recipe="auf")
    assert found.item() == pytest.approx(total, abs=1e-11)
    assert statistics.weight_sum.item() == support
    assert (found / statistics.weight_sum).item() == pytest.approx(total / support, abs=1e-11)

    # By each logit: probability minus one at the label, and nothing behind the first error.
    found.backward()
    expected = logits.detach().exp()
    expected[..., LABEL] -= 1
    expected[:, support:] = 0
    assert torch.allclose(logits.grad, expected, rtol=0, atol=1e-12)
    of_label = [q - 1 for q in confidences[:support]] + [0] * (4 - support)
    assert logits.grad[0, :, LABEL].tolist() == pytest.approx(of_label, abs=1e-12)


@pytest.mark.parametrize(("confidences", "right", "support", "total", "bonus"), VECTORS)
def test_the_bonus_adds_a_share_of_the_first_errors_cross_entropy(
    confidences, right, support, total, bonus
):
    logits = block_logits(confidences, right)
    plain, with_bonus = (objective(logits, recipe=name)[0] for name in ("uniform", "first_error"))
    assert (with_bonus - plain).item() == pytest.approx(bonus, abs=1e-11)
    cut, with_bonus = (
        objective(logits, recipe="auf", first_error_bonus=value)[0] for value in (0, 0.3)
    )
    assert (with_bonus - cut).item() == pytest.approx(bonus, abs=1e-11)


def test_an_error_at_the_first_position_leaves_its_cross_entropy_alone():
    # No distribution is wrong where its label has .8: the weights are told so.
    predictions = BlockPredictions(
        cross_entropy=-torch.tensor([V1], dtype=torch.float64).log(),
        is_right=torch.tensor([[False, True, True, True]]),
        supervised=torch.ones(1, 4, dtype=torch.bool),
        agreement=None,
    )

    def total(recipe: str) -> float:
        loss = LossConfig(recipe=recipe)
        token_loss = TOKEN_LOSSES[loss.token_loss].function(predictions, loss)
        return (position_weights(predictions, loss) * token_loss).sum().item()

    assert total("auf") == pytest.approx(0.223143551314, abs=1e-11)
    assert total("first_error") - total("uniform") == pytest.approx(0.066943065394, abs=1e-11)


def test_weights_that_look_ahead_are_cut_not_worked_out_anew():
    # The weights of D-PACE at alpha .5 over the whole block, of which two are left.
    logits = block_logits(V1, (1, 0, 1, 0))
    found, statistics = objective(logits, recipe="dpace", support="until_first_error")
    assert statistics.weight.tolist() == pytest.approx([2.22890625, 1.32890625, 0, 0])
    expected = 2.22890625 * -math.log(0.8) + 1.32890625 * math.log(2)
    assert found.item() == pytest.approx(expected, abs=1e-11)
