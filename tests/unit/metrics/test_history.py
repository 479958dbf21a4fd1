"""The history: bounded, sampled while something happens, and nothing lost between its points."""

import pytest
from prometheus_client import CollectorRegistry

from dpace_serve.acceptance.decode_step import DecodeStep
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.metrics.drafters import LoadedDrafter
from dpace_serve.metrics.exporter import AcceptanceMetrics
from dpace_serve.metrics.history import MAX_POINTS, SumsHistory


class Counter:
    """Sums that grow by one, and a clock."""

    def __init__(self):
        self.time = 5000.0
        self.count = 0
        self.history = SumsHistory(lambda: {"count": self.count}, lambda: self.time)

    def happen(self, after=0.0):
        self.time += after
        self.count += 1
        self.history.note()

    def points(self):
        return [(point["time"], point["count"]) for point in self.history.to_dict()["points"]]


@pytest.fixture
def counter():
    return Counter()


def test_it_begins_with_what_was_there(counter):
    assert counter.history.to_dict() == {
        "interval_seconds": 10,
        "points": [{"time": 5000.0, "count": 0}],
    }


def test_a_point_is_taken_when_something_happens_10_seconds_after_the_last(counter):
    for _ in range(25):
        counter.happen(after=1)
    assert counter.points() == [(5000, 0), (5010, 10), (5020, 20)]


def test_what_happened_before_a_pause_is_seen_by_whoever_asks_during_it(counter):
    counter.happen(after=12)
    counter.happen(after=3)
    assert counter.points() == [(5000, 0), (5012, 1)]
    counter.time += 600
    assert counter.points() == [(5000, 0), (5012, 1), (5615, 2)]


def test_asking_an_idle_server_adds_nothing(counter):
    counter.happen(after=12)
    counter.time += 600
    assert counter.points() == counter.points() == [(5000, 0), (5012, 1)]


def test_it_is_bounded_to_an_hour_of_traffic(counter):
    for _ in range(2 * MAX_POINTS):
        counter.happen(after=10)
    points = counter.points()
    assert len(points) == 361
    assert points[-1][0] - points[0][0] == 3600
    assert points[-1][1] == 2 * MAX_POINTS


def test_a_clock_that_is_set_back_does_not_stop_it(counter):
    counter.happen(after=12)
    counter.time -= 7200
    counter.happen()
    counter.happen(after=10)
    assert [count for _, count in counter.points()] == [0, 1, 2, 3]


def test_a_point_has_every_drafter_and_arm_and_the_engines_steps():
    clock = Counter()
    metrics = AcceptanceMetrics(
        CollectorRegistry(),
        workloads=["json", "code"],
        num_draft_tokens=3,
        method="dflash",
        now=lambda: clock.time,
    )
    metrics.add_drafter("a", "1", 4, ["champion"])
    metrics.add_drafter("b", "2", 4, ["shadow"])
    metrics.set_loaded([LoadedDrafter("a", "1", "champion", 4)])
    for workload in ("json", "code"):
        metrics.observe(
            RequestAcceptance(
                "r", "a", "1", "champion", workload, (2, 1), (3, 3), 5, 0, 0, finish_reason="stop"
            )
        )
    clock.time += 10
    metrics.observe_step(DecodeStep(0.5, 2, 6))
    assert metrics.history()["points"] == [
        {
            "time": 5000.0,
            "arms": [],
            "decode_seconds": 0.0,
            "calibrated_decode_seconds": None,
            "plain_decode_seconds": None,
            "decode_tokens": 0,
        },
        {
            "time": 5010.0,
            "arms": [
                {"drafter": "a", "revision": "1", "arm": "champion",
                 "requests": 2, "steps": 4, "accepted": 6},
                {"drafter": "b", "revision": "2", "arm": "shadow",
                 "requests": 0, "steps": 0, "accepted": 0},
            ],
            "decode_seconds": 0.5,
            "calibrated_decode_seconds": None,
            "plain_decode_seconds": None,
            "decode_tokens": 6,
        },
    ]  # fmt: skip
