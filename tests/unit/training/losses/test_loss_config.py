"""The settings of the loss."""

import subprocess
import sys
from typing import get_args

import pytest
from pydantic import ValidationError

from dpace_training.losses.config import RECIPES, LossConfig, RecipeName


@pytest.mark.parametrize(
    ("block_size", "gamma"), [(16, 7), (10, 5), (8, 4), (9, 4.5), (13, 6), (4, 2), (32, 14)]
)
def test_gamma_follows_the_block_size_unless_given(block_size, gamma):
    decay = LossConfig(weighting="exp_decay")
    assert decay.resolved_gamma(block_size - 1) == pytest.approx(gamma)
    assert LossConfig(weighting="exp_decay", gamma=3.5).resolved_gamma(block_size - 1) == 3.5


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"weighting": "dpace", "alpha": 0}, "alpha"),
        ({"weighting": "exp_decay", "gamma": 30}, "gamma"),
        ({"weighting": "exp_decay"}, None),
        ({"weighting": "dpace"}, None),
    ],
)
def test_legal_but_poor_values_are_warned_of(caplog, settings, word):
    LossConfig(**settings)
    assert [word in message for message in caplog.messages] == ([True] if word else [])


@pytest.mark.parametrize(
    "settings", [{"alpha": 1.01}, {"alpha": -0.1}, {"gamma": 0}, {"weighting": "none"}]
)
def test_values_out_of_bounds_are_refused(settings):
    with pytest.raises(ValidationError):
        LossConfig(**settings)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_sets_what_it_says_and_yields_to_what_stands_beside_it(recipe):
    loss = LossConfig(recipe=recipe)
    assert {name: getattr(loss, name) for name in RECIPES[recipe]} == RECIPES[recipe]
    assert LossConfig(recipe=recipe, reduction="token").reduction == "token"
    # What is saved beside a drafter reads back as the same objective.
    assert LossConfig(**loss.model_dump()) == loss


def test_every_recipe_has_its_values():
    assert set(RECIPES) == set(get_args(RecipeName))


def test_the_recipe_gives_way_in_the_parts_that_are_set():
    loss = LossConfig(recipe="left_to_right", gamma=5.0)
    assert (loss.gamma, loss.first_error_bonus, loss.resolved_joint_scale) == (5.0, 0.3, 40.0)


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        ({"token_loss": "kl"}, 'labels = "soft"'),
        ({"joint": "expected_tau"}, 'labels = "soft"'),
        ({"weighting": "reach"}, 'labels = "soft"'),
        ({"confidence": "overlap"}, 'labels = "soft"'),
        ({"labels": "soft"}, "target_argmax"),
        ({"recipe": "best"}, "left_to_right"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused_with_the_cure(settings, cure):
    with pytest.raises(ValidationError, match=cure):
        LossConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gamma": 4}, "gamma = 4.0 has no effect.* only weighting = exp_decay .* is dpace"),
        (
            {"weighting": "uniform", "alpha": 0.3},
            "alpha = 0.3 has no effect.*dpace.* is uniform.*default 0.5",
        ),
        ({"recipe": "dflash", "variant": "cumulative_only"}, "variant = cumulative_only has no"),
        ({"weighting": "reach", "labels": "soft", "confidence": "overlap"}, "confidence = overlap"),
        ({"lk_eta": 1}, "lk_eta = 1.0 has no effect.* only token_loss = lk_hybrid .* is ce"),
        ({"temperature": 2}, "temperature = 2.0 has no effect.* only labels = soft .* is data"),
        ({"joint_scale": 3}, "only joint = chain or expected_tau .* Leave it out, or change joint"),
        ({"recipe": "uniform", "weighting": "dpace"}, "recipe = uniform has no effect.*weighting"),
        (
            {"recipe": "dpace_cumulative", "weighting": "uniform"},
            "recipe = dpace_cumulative has no effect",
        ),
    ],
)
def test_a_setting_that_changes_nothing_is_refused_with_the_reason(settings, said):
    with pytest.raises(ValidationError, match=said):
        LossConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"recipe": "left_to_right", "weighting": "uniform"},  # the recipe's own gamma rests
        {"recipe": "left_to_right", "gamma": 5},
        {"recipe": "dpace", "alpha": 0.2, "confidence": "overlap", "labels": "soft"},
        {"recipe": "lk", "lk_eta": 1, "temperature": 0.5},
        {"recipe": "expected_tau", "joint_scale": 2},
        {"weighting": "reach", "labels": "soft", "temperature": 0.5},
    ],
)
def test_what_is_written_down_of_a_changed_recipe_can_be_read_again(settings):
    loss = LossConfig(**settings)
    assert LossConfig(**loss.model_dump(mode="json")) == loss


def test_the_name_says_what_is_trained_on():
    assert LossConfig().name == "dpace"
    assert LossConfig(recipe="left_to_right").name == "left_to_right"
    assert LossConfig(recipe="dpace", alpha=0.3, blocks_per_chunk=2).name == "dpace alpha=0.3"
    changed = LossConfig(recipe="auf", token_loss="kl", labels="soft")  # noqa: S106 (no password)
    assert changed.name == "auf token_loss=kl labels=soft"


def test_the_classes_of_the_settings_load_without_torch():
    script = """
import sys
import dpace_training.study.config
assert not {"torch", "transformers"} & set(sys.modules)
from dpace_training.config import LossConfig
assert LossConfig().weighting == "dpace"
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
