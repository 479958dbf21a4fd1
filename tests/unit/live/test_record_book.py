"""The book of records: every one is kept and can be followed, whether or not it can be counted."""

import pytest
from prometheus_client import CollectorRegistry

from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.demo.bundle import drafter_folder
from dpace_serve.live.admission import describe
from dpace_serve.live.fleet import Fleet
from dpace_serve.live.record_book import RecordBook
from dpace_serve.live.traffic import Traffic
from dpace_serve.metrics.exporter import AcceptanceMetrics

CHAMPION = describe(drafter_folder("dpace"))


class Bench:
    """A book, and at each record that it kept how many it had counted."""

    def __init__(self):
        traffic = Traffic("shadow", 0.1, 1.0, draw_salt="a salt")
        self.fleet = Fleet(CHAMPION, [], num_spare_slots=0, traffic=traffic)
        self.metrics = AcceptanceMetrics(
            CollectorRegistry(), workloads=["json"], num_draft_tokens=7, method="dflash"
        )
        block_size = CHAMPION.config.block_size
        self.metrics.add_drafter(CHAMPION.name, CHAMPION.revision, block_size, ["champion"])
        self.kept = []
        self.book = RecordBook(self.fleet, self.metrics, method="dflash", keep=(self.keep,))

    def keep(self, record):
        counted = self.book.snapshot(0)
        requests = counted["drafters"][0]["requests"] + sum(counted["excluded"].values())
        self.kept.append((record.request_id, requests))

    def followed(self):
        rows = self.book.records_after(0, 64, shows_ids=True)["records"]
        return [(row["sequence"], row["request_id"]) for row in rows]


@pytest.fixture
def bench():
    return Bench()


def record(request_id, *, excluded=None, drafter=CHAMPION.name):
    is_counted = excluded is None
    return RequestAcceptance(
        request_id=request_id,
        drafter=drafter,
        revision=CHAMPION.revision,
        arm="champion",
        workload="json",
        per_step_accepted=(2, 0) if is_counted else (),
        per_step_drafted=(7, 7) if is_counted else (),
        emitted_tokens=4 if is_counted else 0,
        unsettled_drafted=0,
        unsettled_accepted=0,
        finish_reason="length",
        excluded=excluded,
    )


def test_a_record_is_kept_before_it_is_counted(bench):
    assert bench.book.add(record("a"))
    assert bench.book.add(record("b", excluded="aborted"))
    assert bench.kept == [("a", 0), ("b", 1)]
    assert bench.followed() == [(1, "a"), (2, "b")]
    counted = bench.book.snapshot(5, shows_ids=True)
    assert [row["request_id"] for row in counted["records"]] == ["a"]
    assert counted["excluded"]["aborted"] == 1


@pytest.mark.parametrize("excluded", [None, "no_record"])
def test_a_record_that_cannot_be_counted_is_kept_all_the_same(bench, caplog, excluded):
    assert not bench.book.add(record("a", drafter="unknown", excluded=excluded))
    assert not bench.book.add(record("b", drafter="unknown", excluded=excluded))
    assert [request_id for request_id, _ in bench.kept] == ["a", "b"]
    assert bench.followed() == [(1, "a"), (2, "b")]
    counted = bench.book.snapshot(5)
    assert counted["records"] == []
    assert counted["export_errors"]["observe"] == 2
    assert len(caplog.records) == 1  # the rest is only counted


def test_each_start_has_a_name_of_its_own():
    first, second = (Bench().book.records_after(0, 0, shows_ids=False) for _ in range(2))
    assert first["boot"] != second["boot"]
