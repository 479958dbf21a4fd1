from dataclasses import replace

import pytest
import torch

from dpace_serve.drafter.checkpoint import DrafterConfig
from dpace_serve.drafter.specialists import Specialists
from dpace_training.config import FitConfig
from dpace_training.drafter.model import BlockDrafter
from dpace_training.fit.optimizer import learning_rate_at, make_optimizers

FIT = FitConfig(learning_rate=2.0, warmup_ratio=0.04)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.5),  # 4 steps of warm-up: 2 * 1 / 4
        (3, 2.0),
        (4, 2.0),  # the cosine starts at its top
        (52, 1.0),  # half-way through the other 96 steps
        (76, 2 * 0.5 * (1 - 0.5**0.5)),  # three quarters: cos(135 degrees)
    ],
)
def test_the_learning_rate_rises_and_falls_as_a_cosine(step, expected):
    rate = learning_rate_at(step, total_steps=100, fit=FIT)
    assert rate == pytest.approx(expected)


def test_without_warm_up_the_first_step_has_the_highest_rate():
    fit = FIT.model_copy(update={"warmup_ratio": 0.0})
    assert learning_rate_at(0, total_steps=10, fit=fit) == 2.0


@pytest.fixture
def drafter():
    """All weights 1."""
    drafter = BlockDrafter(
        DrafterConfig(
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=4,
            rms_norm_eps=1e-6,
            rope_theta=10000.0,
            max_position_embeddings=16,
            vocab_size=5,
            block_size=4,
            mask_token_id=4,
            target_layer_ids=(0, 1),
            num_target_layers=3,
            target_hidden_size=8,
        )
    )
    with torch.no_grad():
        for parameter in drafter.parameters():
            parameter.fill_(1.0)
    return drafter


def step(optimizers, drafter, gradient):
    for parameter in drafter.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    for optimizer in optimizers:
        optimizer.step()


def test_adamw_takes_its_betas_and_its_weight_decay_from_the_settings(drafter):
    fit = FitConfig(learning_rate=0.1, betas=(0.5, 0.75), weight_decay=0.1)
    optimizers = make_optimizers(drafter, fit)
    step(optimizers, drafter, 2.0)
    # Decay 1 x (1 - 0.1 x 0.1) = 0.99. Moments 0.5 x 2 = 1 and 0.25 x 4 = 1, without bias 2 and 4:
    # 0.99 - 0.1 x 2 / 2 = 0.89.
    assert_all(drafter, 0.89)
    step(optimizers, drafter, -4.0)
    # Decay 0.8811. Moments 0.5 - 2 = -1.5 and 0.75 + 4 = 4.75, without bias -2 and 76 / 7:
    # 0.8811 + 0.1 x 2 / 3.295018.
    assert_all(drafter, 0.9417977)


def test_under_muon_matrices_decay_like_the_rest(drafter):
    fit = FitConfig(learning_rate=0.1, weight_decay=0.1, optimizer="muon")
    optimizers = make_optimizers(drafter, fit)
    step(optimizers, drafter, 0.0)
    assert len(optimizers) == 2
    assert_all(drafter, 0.99)


def test_muon_leaves_the_stacks_of_specialists_to_adamw(drafter):
    config = replace(drafter.config, specialists=Specialists("last_layer", 2))
    adamw, muon = make_optimizers(
        BlockDrafter(config), FIT.model_copy(update={"optimizer": "muon"})
    )
    # The last layer's vectors of width 8 and 4 (its heads), once for each of two groups.
    shapes = [tuple(w.shape) for group in adamw.param_groups for w in group["params"]]
    assert shapes.count((2, 8)) == 2
    assert shapes.count((2, 4)) == 1
    assert [shape for shape in shapes if len(shape) == 3].count((2, 8, 8)) == 5
    # The taps' projection, and the projections of keys and values that the groups share.
    left = [tuple(w.shape) for group in muon.param_groups for w in group["params"]]
    assert left == [(8, 16), (4, 8), (4, 8)]


def test_without_weight_decay_a_zero_gradient_moves_nothing(drafter):
    step(make_optimizers(drafter, FitConfig(learning_rate=0.1)), drafter, 0.0)
    assert_all(drafter, 1.0)


def assert_all(drafter, expected):
    for name, parameter in drafter.named_parameters():
        wanted = torch.full_like(parameter, expected)
        torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-6, atol=0, msg=name)
