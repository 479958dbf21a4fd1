"""Calibrated step times: a full grid, linear between its points, unknown outside."""

import itertools
import random

import pytest

from dpace_serve.acceptance.step_times import StepTimes, TimedPoint, time_of_length

# Seconds by (draft tokens, batch size): 0.01, 0.03 without drafts; 0.02, 0.06 with 4.
POINTS = [
    TimedPoint(0, 1, 0.01),
    TimedPoint(4, 1, 0.02),
    TimedPoint(0, 5, 0.03),
    TimedPoint(4, 5, 0.06),
]


def test_a_measured_batch_size_has_its_measured_times():
    times = StepTimes.from_points(POINTS)
    assert (times.lengths, times.batch_sizes) == ((0, 4), (1, 5))
    assert times.seconds_at(1) == (0.01, 0.02)
    assert times.seconds_at(5) == (0.03, 0.06)


def test_between_two_batch_sizes_the_time_is_linear():
    # Three quarters of the way from 1 to 5.
    assert StepTimes.from_points(POINTS).seconds_at(4) == pytest.approx((0.025, 0.05))


@pytest.mark.parametrize("batch_size", [0, 6, 100])
def test_outside_the_measured_batch_sizes_nothing_is_known(batch_size):
    assert StepTimes.from_points(POINTS).seconds_at(batch_size) is None


def test_the_order_of_the_points_does_not_matter():
    shuffled = random.Random(1).sample(POINTS, len(POINTS))
    assert StepTimes.from_points(shuffled) == StepTimes.from_points(POINTS)


@pytest.mark.parametrize(
    ("points", "named"),
    [
        (POINTS[:3], "3 times of 2 lengths at 2 batch sizes"),
        ([*POINTS, POINTS[0]], "5 times"),
        ([], "the lengths none"),
        ([TimedPoint(3, 1, 0.1), TimedPoint(7, 1, 0.2)], "the lengths 3, 7"),
        ([TimedPoint(0, 1, 0.0)], "takes time"),
    ],
)
def test_points_that_are_no_grid_with_speculation_off_are_refused(points, named):
    with pytest.raises(ValueError, match=named):
        StepTimes.from_points(points)


def test_times_of_lengths_between_measured_ones_are_linear():
    lengths, times = (0, 1, 3, 7), (10.0, 14.0, 18.0, 20.0)
    assert [time_of_length(lengths, times, length) for length in range(8)] == [
        10.0, 14.0, 16.0, 18.0, 18.5, 19.0, 19.5, 20.0,
    ]  # fmt: skip


def test_no_time_is_made_up_between_a_step_with_the_drafter_and_one_without():
    assert time_of_length((0, 3), (10.0, 16.0), 1) is None
    assert time_of_length((0, 3), (10.0, 16.0), 2) is None


@pytest.mark.parametrize(("lengths", "length"), [((0, 3), 4), ((1, 3), 0), ((2, 3), 1)])
def test_no_time_is_made_up_outside_the_measured_lengths(lengths, length):
    assert time_of_length(lengths, (10.0, 16.0), length) is None


def test_a_step_that_grows_linearly_is_found_exactly_everywhere():
    def seconds(length, size):
        return 0.004 + 0.001 * length + 0.002 * size

    grid = itertools.product((0, 1, 7), (1, 4, 16))
    times = StepTimes.from_points(TimedPoint(k, size, seconds(k, size)) for k, size in grid)
    for size, length in itertools.product(range(1, 17), range(8)):
        found = time_of_length(times.lengths, times.seconds_at(size), length)
        assert found == pytest.approx(seconds(length, size))
