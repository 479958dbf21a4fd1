"""The ring of records: order, what a slow reader misses, and how much it keeps."""

import pytest

from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.acceptance.request_id import hashed_id
from dpace_serve.live import record_ring
from dpace_serve.live.record_ring import RecordRing


def record(number, steps=1, excluded=None):
    nothing = excluded is not None
    return RequestAcceptance(
        request_id=f"r{number}",
        drafter="d",
        revision="1",
        arm="champion",
        workload="other",
        per_step_accepted=() if nothing else (1,) * steps,
        per_step_drafted=() if nothing else (7,) * steps,
        emitted_tokens=0 if nothing else 2 * steps,
        unsettled_drafted=0,
        unsettled_accepted=0,
        finish_reason="length",
        excluded=excluded,
    )


def read(ring, after, limit=256):
    answer = ring.after(after, limit, shows_ids=True)
    return [(row["sequence"], row["request_id"]) for row in answer["records"]]


def test_an_empty_ring_has_no_record_and_the_next_number():
    assert RecordRing("b").after(0, 256, shows_ids=False) == {
        "boot": "b",
        "oldest": 1,
        "newest": 0,
        "records": [],
    }


def test_a_reader_that_follows_gets_every_record_once_and_in_order():
    ring, seen = RecordRing("b"), []
    for number in range(1, 8):
        ring.append(record(number))
        if number % 3 == 0:
            seen += read(ring, len(seen), limit=2)
    while new := read(ring, len(seen), limit=2):
        seen += new
    assert seen == [(number, f"r{number}") for number in range(1, 8)]


def test_a_reader_that_comes_too_late_sees_from_where_on_it_can_read(monkeypatch):
    monkeypatch.setattr(record_ring, "KEPT_RECORDS", 3)
    ring = RecordRing("b")
    for number in range(1, 8):
        ring.append(record(number))
    answer = ring.after(2, 256, shows_ids=True)
    assert (answer["oldest"], answer["newest"]) == (5, 7)  # 3 and 4 are missed
    assert read(ring, 2) == [(5, "r5"), (6, "r6"), (7, "r7")]
    assert read(ring, 6) == [(7, "r7")]
    assert read(ring, 7) == []


def test_long_answers_are_forgotten_by_their_steps(monkeypatch):
    monkeypatch.setattr(record_ring, "KEPT_STEPS", 100)
    ring = RecordRing("b")
    for number in range(1, 5):
        ring.append(record(number, steps=40))
    assert read(ring, 0) == [(3, "r3"), (4, "r4")]


@pytest.mark.parametrize("shows_ids", [False, True])
def test_excluded_records_are_there_with_their_reason_and_ids_only_where_allowed(shows_ids):
    ring = RecordRing("b")
    ring.append(record(1, excluded="aborted"))
    (row,) = ring.after(0, 256, shows_ids=shows_ids)["records"]
    assert row["excluded"] == "aborted"
    assert row["request_id"] == ("r1" if shows_ids else hashed_id("r1"))
