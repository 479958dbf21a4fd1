"""The settings of the loss."""

import pytest
from pydantic import ValidationError

from dpace_training.config import LossConfig


@pytest.mark.parametrize(
    ("block_size", "gamma"), [(16, 7), (10, 5), (8, 4), (9, 4.5), (13, 6), (4, 2), (32, 14)]
)
def test_gamma_follows_the_block_size_unless_given(block_size, gamma):
    assert LossConfig().resolved_gamma(block_size - 1) == pytest.approx(gamma)
    assert LossConfig(gamma=3.5).resolved_gamma(block_size - 1) == 3.5


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"weighting": "dpace", "alpha": 0}, "alpha"),
        ({"weighting": "exp_decay", "gamma": 30}, "gamma"),
        ({"weighting": "exp_decay", "alpha": 0}, None),
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
