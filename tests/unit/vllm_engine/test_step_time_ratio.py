"""How long steps of two drafters take against each other, and where that is not known."""

from pathlib import Path

import pytest

from dpace_serve.acceptance.step_times import StepTimes, TimedPoint
from dpace_serve.acceptance.verdict import StepTime
from dpace_serve.errors import ConfigError
from dpace_serve.live.hosted import HostedDrafter, Rivals
from dpace_serve.serve_config import ServeConfig
from dpace_serve.vllm_engine.step_time_ratio import StepTimeRatio, calibrated_times

# By batch size: the time of a step without drafts and with 7 draft tokens, in ms.
SMALL = {1: (10, 20), 4: (10, 30)}
LARGE = {1: (10, 25), 4: (10, 45)}


def times(by_batch):
    return StepTimes.from_points(
        TimedPoint(length, batch_size, ms / 1000)
        for batch_size, row in by_batch.items()
        for length, ms in zip((0, 7), row, strict=True)
    )


def rivals(*, have_same_shape=False):
    champion, challenger = (
        HostedDrafter(name, "r1", Path("/d"), 8, generation)
        for generation, name in enumerate(("small", "large"))
    )
    return Rivals(champion, challenger, have_same_shape, None)


def ratio(*, num_draft_tokens=7, known=("small", "large")):
    both = {"small": times(SMALL), "large": times(LARGE)}
    return StepTimeRatio({name: both[name] for name in known}, lambda _: num_draft_tokens)


def test_equal_shapes_take_equal_time_without_any_calibration():
    assert ratio(known=())(rivals(have_same_shape=True), {}) == StepTime(1.0, "same_shape")


@pytest.mark.parametrize(
    ("num_steps", "expected"),
    [
        ({1: 8}, 25 / 20),
        ({4: 8}, 45 / 30),
        ({1: 9, 4: 1}, (9 * 25 + 45) / (9 * 20 + 30)),
        ({1: 0, 4: 8, 9: 0}, 45 / 30),
        ({1: 9, 9: 1}, 25 / 20),  # one of ten has a size that was not measured
    ],
)
def test_other_shapes_are_compared_at_the_batch_size_of_each_step(num_steps, expected):
    found = ratio()(rivals(), num_steps)
    assert found.source == "calibration"
    assert found.ratio == pytest.approx(expected)


def test_where_nothing_is_drafted_both_take_the_time_of_the_target():
    assert ratio(num_draft_tokens=0)(rivals(), {1: 3}).ratio == pytest.approx(1.0)


@pytest.mark.parametrize(
    "unknown", [{"known": ("small",)}, {"known": ("large",)}, {"num_draft_tokens": 9}]
)
def test_drafters_and_lengths_that_were_not_measured_are_not_guessed(unknown):
    assert ratio(**unknown)(rivals(), {1: 3}) is None


@pytest.mark.parametrize("num_steps", [{}, {1: 0}, {9: 3}, {1: 8, 9: 1}])
def test_batch_sizes_that_were_not_measured_are_not_guessed(num_steps):
    assert ratio()(rivals(), num_steps) is None


def test_a_file_without_usable_times_is_refused_in_one_line(tmp_path):
    path = tmp_path / "times.json"
    config = ServeConfig(target="t", verdict={"step_times": {"large": path}})
    with pytest.raises(ConfigError, match=f"{path}: cannot be read"):
        calibrated_times(config, "small")
