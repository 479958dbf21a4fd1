import itertools
import statistics

import pytest

from dpace_loadtest.arrivals import ArrivalConfig, arrivals, read_trace, trace_rate
from dpace_serve.config import build_config
from dpace_serve.errors import ConfigError


def config(**values):
    return build_config(ArrivalConfig, values, source="test")


def first(number, given, *, rate=1.0, seed="0", recorded=()):
    return list(itertools.islice(arrivals(given, rate=rate, seed=seed, recorded=recorded), number))


def test_constant_arrivals_tick_like_a_clock_from_the_start():
    assert first(4, config(process="constant"), rate=4) == [0, 0.25, 0.5, 0.75]


def test_a_ramp_from_nothing_follows_the_square_root_of_the_count():
    # The rate is 2 t / 10 at second t, so t^2 / 10 requests have come by then.
    points = [{"seconds": 0, "share": 0}, {"seconds": 10, "share": 2}]
    moments = first(13, config(process="constant", profile=points))
    expected = [(10 * count) ** 0.5 for count in range(11)]
    assert moments[:11] == pytest.approx(expected)
    # It ends at second 10 with 10 requests, and goes on at 2 a second.
    assert moments[11:] == pytest.approx([10.5, 11.0])


def test_a_falling_ramp_mirrors_a_rising_one():
    # 4 - 4 t / 10 requests/s: 4 t - t^2 / 5 have come by second t.
    points = [{"seconds": 0, "share": 2}, {"seconds": 10, "share": 0}, {"seconds": 10, "share": 1}]
    moments = first(20, config(process="constant", profile=points), rate=2)
    assert [4 * moment - moment**2 / 5 for moment in moments] == pytest.approx(list(range(20)))


def test_steps_change_the_rate_at_once_and_a_pause_brings_nothing():
    points = [
        {"seconds": 0, "share": 1},
        {"seconds": 2, "share": 1},
        {"seconds": 2, "share": 0},
        {"seconds": 5, "share": 0},
        {"seconds": 5, "share": 4},
    ]
    moments = first(7, config(process="constant", profile=points))
    assert moments == pytest.approx([0, 1, 2, 5.25, 5.5, 5.75, 6.0])


def test_the_first_point_of_a_profile_holds_from_the_start():
    points = [{"seconds": 3, "share": 2}, {"seconds": 4, "share": 2}]
    assert first(3, config(process="constant", profile=points)) == pytest.approx([0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("given", "squared_variation"),
    [
        (config(process="poisson"), 1.0),
        (config(process="gamma", burstiness=0.25), 4.0),
        (config(process="gamma", burstiness=4), 0.25),
    ],
    ids=["poisson", "bursty", "even"],
)
def test_gaps_have_the_mean_and_variation_of_their_process(given, squared_variation):
    moments = first(40_001, given, rate=5, seed="theory")
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    # Standard error of the mean: sqrt(variation) / 200 of it, at most 1 %; the bound is five.
    assert statistics.fmean(gaps) == pytest.approx(0.2, rel=0.05)
    variation = statistics.variance(gaps) / statistics.fmean(gaps) ** 2
    assert variation == pytest.approx(squared_variation, rel=0.12)


def test_poisson_counts_per_second_vary_as_much_as_their_mean():
    moments = [moment for moment in first(21_000, config(), rate=10) if moment < 2000]
    counts = [0] * 2000
    for moment in moments:
        counts[int(moment)] += 1
    assert statistics.fmean(counts) == pytest.approx(10, rel=0.04)
    assert statistics.variance(counts) == pytest.approx(10, rel=0.16)


def test_the_seed_alone_decides():
    assert first(50, config(), seed="a") == first(50, config(), seed="a")
    assert first(50, config(), seed="a") != first(50, config(), seed="b")


def test_twice_the_rate_is_the_same_schedule_in_half_the_time():
    slow = first(50, config(), rate=2)
    assert first(50, config(), rate=4) == pytest.approx([moment / 2 for moment in slow])


def test_a_trace_is_read_sorted_from_its_first_arrival(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 1500, "input_length": 3}\n\n1000\n{"timestamp": 3000}\n')
    given = config(trace=str(path), trace_unit="ms")
    recorded = read_trace(given)
    assert recorded == pytest.approx((0, 0.5, 2.0))
    # Two gaps in two seconds: one a second. At two a second it takes half the time.
    assert trace_rate(recorded) == pytest.approx(1.0)
    assert first(9, given, rate=2, recorded=recorded) == pytest.approx([0, 0.25, 1.0])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1\n", "must hold two arrivals"),
        ("1\n1\n", "must hold two arrivals"),
        ("1\nx\n", ":2: not valid JSON"),
        ('1\n{"time": 3}\n', ":2: must be a number"),
        ("1\ntrue\n", ":2: must be a number"),
        ("1\nNaN\n", ":2: must be a number"),
    ],
)
def test_a_trace_without_times_is_refused(tmp_path, text, complaint):
    path = tmp_path / "trace.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        read_trace(config(trace=str(path)))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"burstiness": 2}, "burstiness is for process gamma"),
        ({"trace": "t", "process": "gamma"}, "a trace replaces process and profile"),
        ({"profile": [{"seconds": 2, "share": 1}, {"seconds": 1, "share": 1}]}, "must not fall"),
        ({"profile": [{"seconds": 2, "share": 0}]}, "must not end at share 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values, complaint):
    with pytest.raises(ConfigError, match=complaint):
        config(**values)
