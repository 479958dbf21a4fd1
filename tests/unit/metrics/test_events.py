"""What is counted beside acceptance: exclusions, losses, operations and shares."""

import threading

import pytest
from prometheus_client import CollectorRegistry

from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.metrics.exporter import AcceptanceMetrics

COUNTED = RequestAcceptance(
    "r", "dpace", "1", "champion", "json", (1,), (3,), 2, 0, 0, finish_reason="stop"
)


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def metrics(registry):
    return AcceptanceMetrics(registry, workloads=["json"], num_draft_tokens=3, method="dflash")


def excluded(reason, **labels):
    given = {"request_id": "r", "drafter": "dpace", "revision": "1", "arm": "champion"}
    rest = {"workload": "json", "finish_reason": "abort"}
    return RequestAcceptance.from_exclusion(reason, **(given | rest | labels))


def all_samples(registry):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in registry.collect()
        for sample in metric.samples
    }


def test_what_is_left_out_or_lost_is_counted(registry, metrics):
    metrics.add_drafter("dpace", "1", 4, ["champion"])
    metrics.add_drafter("dpace", "2", 4, ["challenger"])
    metrics.exclude(excluded("aborted"))
    metrics.exclude(excluded("aborted", arm="challenger", revision="2"))
    metrics.exclude(excluded("no_record"))
    metrics.unknown_workload()
    metrics.export_error("observe")
    metrics.export_error("log", 7)
    value = registry.get_sample_value
    name = "dpace_requests_excluded_total"
    first = {"drafter": "dpace", "revision": "1", "arm": "champion"}
    second = {"drafter": "dpace", "revision": "2", "arm": "challenger"}
    assert value(name, first | {"reason": "aborted"}) == 1
    assert value(name, second | {"reason": "aborted"}) == 1
    assert value(name, first | {"reason": "no_record"}) == 1
    assert value("dpace_workload_unknown_total") == 1
    assert value("dpace_export_errors_total", {"stage": "observe"}) == 1
    assert value("dpace_export_errors_total", {"stage": "log"}) == 7
    snapshot = metrics.snapshot()
    assert snapshot["excluded"] == {
        "aborted": 2,
        "several_outputs": 0,
        "stop_string": 0,
        "no_record": 1,
        "no_step": 0,
        "no_shadow": 0,
    }
    assert snapshot["unknown_workload"] == 1
    assert snapshot["export_errors"] == {
        "record": 0,
        "observe": 1,
        "shadow": 0,
        "log": 7,
        "verdict": 0,
        "capture": 0,
        "step": 0,
        "trace": 0,
    }


def test_a_label_outside_its_set_makes_no_new_series(registry, metrics):
    before = all_samples(registry)
    with pytest.raises(ValueError, match="verdict, log, capture, step, trace, got later"):
        metrics.export_error("later")
    with pytest.raises(ValueError, match="swap, challenge, promote, drop, got wish"):
        metrics.count_operation("wish", "ok")
    with pytest.raises(ValueError, match="ok, refused, busy, failed, unauthorized, got maybe"):
        metrics.count_operation("swap", "maybe")
    with pytest.raises(ValueError, match="that says why is excluded, got none"):
        metrics.exclude(COUNTED)
    assert all_samples(registry) == before


def test_errors_counted_by_several_threads_at_once_all_count(registry, metrics):
    def lose():
        for _ in range(2_000):
            metrics.export_error("log")

    threads = [threading.Thread(target=lose) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.snapshot()["export_errors"]["log"] == 8_000
    assert registry.get_sample_value("dpace_export_errors_total", {"stage": "log"}) == 8_000


def test_operations_are_counted_by_how_they_ended(registry, metrics):
    metrics.count_operation("swap", "ok")
    metrics.count_operation("swap", "ok")
    metrics.count_operation("promote", "busy")
    counted = {
        labels: value
        for (name, labels), value in all_samples(registry).items()
        if name == "dpace_drafter_swaps_total" and value
    }
    assert counted == {
        (("operation", "swap"), ("result", "ok")): 2,
        (("operation", "promote"), ("result", "busy")): 1,
    }


def test_draws_of_a_split_are_counted_by_arm_from_0(registry, metrics):
    def drawn():
        name = "dpace_split_requests_total"
        return [registry.get_sample_value(name, {"arm": a}) for a in ("champion", "challenger")]

    assert drawn() == [0, 0]
    for arm in ("champion", "challenger", "champion"):
        metrics.count_split(arm)
    assert drawn() == [2, 1]
    with pytest.raises(ValueError, match="champion, challenger, got shadow"):
        metrics.count_split("shadow")
    assert drawn() == [2, 1]
    assert registry.get_sample_value("dpace_split_requests_total", {"arm": "shadow"}) is None


def test_the_champion_has_the_share_that_challengers_leave(registry, metrics):
    def shares():
        name = "dpace_split_share"
        return [registry.get_sample_value(name, {"arm": a}) for a in ("champion", "challenger")]

    assert shares() == [1, 0]
    metrics.set_split_share(challengers=0.25)
    assert shares() == [0.75, 0.25]
    for wrong in (1, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
            metrics.set_split_share(challengers=wrong)
    assert shares() == [0.75, 0.25]
