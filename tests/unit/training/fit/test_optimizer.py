import pytest

from dpace_training.config import FitConfig
from dpace_training.fit.optimizer import learning_rate_at

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
