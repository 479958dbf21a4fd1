"""Timed steps: series and sums that agree, the last minute, and a speed-up that stays honest."""

import random

import pytest
from prometheus_client import CollectorRegistry

from dpace_serve.acceptance.decode_step import DecodeStep
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.acceptance.step_times import StepTimes, TimedPoint
from dpace_serve.metrics.drafters import LoadedDrafter
from dpace_serve.metrics.exporter import AcceptanceMetrics
from dpace_serve.metrics.names import CALIBRATED_METRICS

# Without drafts 10 ms alone and 16 ms in a batch of 4; with 1, 2 and 3 drafts ever more.
STEP_TIMES = StepTimes.from_points(
    TimedPoint(length, size, seconds)
    for size, of_lengths in {
        1: (0.010, 0.012, 0.013, 0.015),
        4: (0.016, 0.020, 0.024, 0.030),
    }.items()
    for length, seconds in enumerate(of_lengths)
)


class Clock:
    def __init__(self):
        self.time = 1000.25

    def __call__(self):
        return self.time


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def clock():
    return Clock()


def started(registry, clock, step_times=STEP_TIMES):
    metrics = AcceptanceMetrics(
        registry,
        workloads=["json"],
        num_draft_tokens=3,
        method="dflash",
        step_times=step_times,
        now=clock,
    )
    metrics.add_drafter("a", "1", 4, ["champion"])
    metrics.set_loaded([LoadedDrafter("a", "1", "champion", 4)])
    return metrics


def record(*accepted, drafter="a", arm="champion"):
    return RequestAcceptance(
        "r", drafter, "1", arm, "json", accepted, (3,) * len(accepted),
        sum(accepted) + len(accepted), 0, 0, finish_reason="stop",
    )  # fmt: skip


def value(registry, name, **labels):
    return registry.get_sample_value(f"dpace_{name}_total", labels)


def test_steps_are_counted_with_their_time_tokens_and_batch_sizes(registry, clock):
    metrics = started(registry, clock)
    metrics.observe_step(DecodeStep(0.020, 1, 3))
    metrics.observe_step(DecodeStep(0.030, 4, 9))
    assert value(registry, "decode_steps") == 2
    assert value(registry, "decode_seconds") == 0.020 + 0.030
    assert value(registry, "decode_tokens") == 12
    assert value(registry, "decode_requests") == 5


def test_plain_decoding_would_have_taken_a_step_for_each_token_of_each_request(registry, clock):
    metrics = started(registry, clock)
    metrics.observe_step(DecodeStep(0.020, 1, 3))  # 3 steps of 10 ms
    metrics.observe_step(DecodeStep(0.030, 4, 8))  # 2 steps of 16 ms
    assert value(registry, "plain_decode_seconds") == pytest.approx(0.030 + 0.032)
    assert metrics.snapshot()["speed"]["speedup"] == pytest.approx(0.062 / 0.050)


def test_the_calibrated_time_of_every_length_is_summed_over_the_same_steps(registry, clock):
    metrics = started(registry, clock)
    metrics.observe_step(DecodeStep(0.5, 1, 1))
    metrics.observe_step(DecodeStep(0.5, 2, 2))  # a third of the way to 4
    found = [value(registry, "calibrated_step_seconds", num_draft_tokens=str(k)) for k in range(4)]
    assert found == pytest.approx(
        [0.010 + 0.012, 0.012 + 0.012 + 0.008 / 3, 0.013 + 0.013 + 0.011 / 3, 0.015 + 0.020]
    )


def test_a_batch_that_was_not_calibrated_enters_neither_side_of_the_speedup(registry, clock):
    metrics = started(registry, clock)
    metrics.observe_step(DecodeStep(0.020, 1, 3))
    metrics.observe_step(DecodeStep(9.0, 5, 5))
    assert value(registry, "decode_seconds") == 0.020 + 9.0
    assert value(registry, "calibrated_decode_seconds") == 0.020
    assert value(registry, "decode_steps") == 2
    assert value(registry, "calibrated_decode_steps") == 1
    assert metrics.snapshot()["speed"]["speedup"] == pytest.approx(0.030 / 0.020)


def test_without_a_calibrated_step_there_is_no_speedup_and_no_line(registry, clock):
    metrics = started(registry, clock)
    metrics.observe(record(2, 1))
    metrics.observe_step(DecodeStep(9.0, 5, 5))
    speed = metrics.snapshot()["speed"]
    assert (speed["speedup"], speed["break_even"]) == (None, [])
    assert speed["calibrated_batch_sizes"] == [1, 4]


def test_a_server_without_step_times_is_told_from_one_whose_batches_are_outside(registry, clock):
    metrics = started(registry, clock, step_times=None)
    metrics.observe_step(DecodeStep(9.0, 5, 5))
    speed = metrics.snapshot()["speed"]
    assert (speed["speedup"], speed["calibrated_batch_sizes"]) == (None, None)


def test_series_begin_at_0_and_calibrated_ones_only_with_a_calibration(registry, clock):
    started(registry, clock)
    assert value(registry, "decode_steps") == value(registry, "plain_decode_seconds") == 0
    assert value(registry, "calibrated_decode_steps") == 0
    assert value(registry, "calibrated_step_seconds", num_draft_tokens="0") == 0
    other = CollectorRegistry()
    metrics = started(other, clock, step_times=None)
    metrics.observe_step(DecodeStep(0.02, 1, 3))
    exported = {f"{metric.name}_total" for metric in other.collect()}
    assert "dpace_decode_steps_total" in exported
    assert not exported & {spec.name for spec in CALIBRATED_METRICS}
    assert metrics.snapshot()["speed"]["speedup"] is None


def test_the_speed_has_the_sums_of_the_last_minute(registry, clock):
    metrics = started(registry, clock)
    assert metrics.snapshot()["speed"] is None
    metrics.observe_step(DecodeStep(0.5, 1, 1))
    clock.time += 30
    metrics.observe_step(DecodeStep(0.02, 1, 3))
    metrics.observe_step(DecodeStep(0.03, 4, 7))
    assert metrics.snapshot()["speed"]["steps"] == 3
    clock.time += 31
    speed = metrics.snapshot()["speed"]
    assert {key: speed[key] for key in list(speed)[:-2]} == {
        "window_seconds": 60,
        "steps": 2,
        "mean_batch_size": 2.5,
        "step_ms": pytest.approx(25.0),
        "tokens_per_second": pytest.approx(200.0),
        "calibrated_batch_sizes": [1, 4],
    }
    clock.time += 60
    assert metrics.snapshot()["speed"] is None


def test_steps_are_counted_by_batch_size_whatever_is_calibrated(registry, clock):
    metrics = started(registry, clock, step_times=None)
    assert metrics.num_steps() == {}
    for batch_size in (1, 4, 4, 9):
        metrics.observe_step(DecodeStep(0.02, batch_size, batch_size))
    assert metrics.num_steps() == {1: 1, 4: 2, 9: 1}


def test_a_clock_that_is_set_back_loses_the_minute_and_nothing_else(registry, clock):
    metrics = started(registry, clock)
    metrics.observe_step(DecodeStep(0.5, 1, 1))
    clock.time -= 3600
    metrics.observe_step(DecodeStep(0.02, 1, 3))
    assert metrics.snapshot()["speed"]["steps"] == 1
    assert value(registry, "decode_steps") == 2


def test_the_window_keeps_one_piece_per_second_however_many_steps(registry, clock):
    metrics = started(registry, clock)
    for _ in range(5000):
        clock.time += 0.1
        metrics.observe_step(DecodeStep(0.1, 1, 2))
    assert len(metrics._speed._window._pieces) == 60
    assert metrics.snapshot()["speed"]["steps"] == pytest.approx(600, abs=10)


def test_the_break_even_line_follows_the_champions_own_tau(registry, clock):
    metrics = started(registry, clock)
    metrics.add_drafter("b", "1", 4, ["challenger"])
    metrics.observe(record(3, 3, 0, 0))  # rates of 0.5 at all positions
    metrics.observe(record(3, 3, drafter="b", arm="challenger"))
    metrics.observe_step(DecodeStep(0.02, 1, 3))
    line = metrics.snapshot()["speed"]["break_even"]
    assert [point["position"] for point in line] == [1, 2, 3]
    expected = [2 / 10, 1.5 * 1 / 12, 2.0 * 2 / 13]
    assert [point["rate"] for point in line] == pytest.approx(expected)


def test_series_sums_and_history_agree_to_the_last_bit(registry, clock):
    metrics = started(registry, clock)
    chance = random.Random(5)
    for _ in range(500):
        step = DecodeStep(chance.uniform(0.001, 0.1), chance.randint(1, 6), chance.randint(1, 24))
        metrics.observe_step(step)
    clock.time += 10
    last = metrics.history()["points"][-1]
    for name in ("decode_seconds", "calibrated_decode_seconds", "plain_decode_seconds"):
        assert last[name] == value(registry, name)
    assert last["decode_tokens"] == value(registry, "decode_tokens")
