"""The knee of a sweep, on sweeps whose knee one sees."""

import pytest

from dpace_loadtest.knee import LoadPoint, find_knee


def points(*rows):
    return [LoadPoint(load, answered, good, is_saturated=False) for load, answered, good in rows]


def test_it_is_the_last_load_that_is_answered():
    knee = find_knee(points((4, 0.7, None), (1, 1.02, None), (2, 0.96, None)), None)
    assert (knee.load, knee.is_above) == (2, False)
    assert "At 4 requests/s only 70% of the offered rate was answered" in knee.reason


def test_goodput_ends_it_before_the_throughput_does():
    sweep = points((1, 1.0, 1.0), (2, 1.0, 0.94), (4, 0.99, 0.2))
    assert find_knee(sweep, 0.95).load == 1
    assert find_knee(sweep, 0.94).load == 2
    assert find_knee(sweep, None).load == 4


def test_a_sweep_that_holds_throughout_says_that_the_knee_lies_above():
    knee = find_knee(points((1, 1.0, None), (2, 1.0, None)), None)
    assert (knee.load, knee.is_above) == (2, True)


def test_luck_above_a_load_that_failed_does_not_count():
    assert find_knee(points((1, 1.0, None), (2, 0.9, None), (4, 1.0, None)), None).load == 1


def test_a_generator_that_fell_behind_says_nothing_of_the_server():
    sweep = [*points((1, 1.0, None)), LoadPoint(2, 1.0, None, is_saturated=True)]
    knee = find_knee(sweep, None)
    assert knee.load == 1
    assert "generator itself fell behind" in knee.reason


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        (points((1, 0.5, None), (2, 0.4, None)), "only 50%"),
        (points((1, None, None), (2, 1.0, None)), "too few requests"),
        (points((1, 1.0, None)), "at least 2 loads"),
        ([], "at least 2 loads"),
    ],
)
def test_where_there_is_none_it_is_none_with_a_reason(sweep, said):
    knee = find_knee(sweep, 0.95)
    assert knee.load is None
    assert said in knee.reason
