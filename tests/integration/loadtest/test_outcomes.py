import itertools
import json
from collections import Counter

import pytest

QUICK = {"first_ms": 20, "gap_ms": 20, "num_chunks": 3}
SCRIPTS = {
    "ok": {**QUICK},
    "slow head": {**QUICK, "head_ms": 700, "first_ms": 720},
    "refused": {"status": 429},
    "failed": {"status": 500},
    "closed": {**QUICK, "cut_after": 2},
    "reset": {**QUICK, "cut_after": 1, "is_reset": True},
    "broken": {**QUICK, "error_after": 1},
    "late": {**QUICK, "first_ms": 60_000},
}
EXPECTED = {
    "ok": ("ok", 200),
    "slow head": ("ok", 200),
    "refused": ("refused", 429),
    "failed": ("http_error", 500),
    "closed": ("cut", 200),
    "reset": ("cut", 200),
    "broken": ("http_error", 500),
    "late": ("timeout", 200),
}


def test_what_goes_wrong_is_counted_apart_and_ends_nothing(server, scripted, load, closed_port):
    with server() as fake:
        record, rows = load(
            arms=[
                {"name": "fake", "url": fake.url},
                {"name": "nobody", "url": f"http://127.0.0.1:{closed_port}", "model": "m"},
            ],
            loads=[20],
            warm_up_seconds=0,
            num_requests=16,
            workloads=[scripted(*SCRIPTS.values())],
            request_timeout_seconds=2,
            max_send_lag_ms=1000,
        )
    by_arm = {name: [row for row in rows if row.arm == name] for name in ("fake", "nobody")}
    assert Counter((row.outcome, row.status) for row in by_arm["fake"]) == Counter(
        list(EXPECTED.values()) * 2
    )
    assert Counter((row.outcome, row.status) for row in by_arm["nobody"]) == {
        ("unreachable", None): 16
    }
    assert [cell.num_failed for cell in record.cells] == [12, 16]
    keys = {name: [row.prompt_key for row in rows] for name, rows in by_arm.items()}
    assert keys["fake"] == keys["nobody"]  # both arms are asked the same, in the same order
    for row in rows:
        assert (row.error is None) == (row.outcome == "ok")
    ended = {(row.outcome, row.status): row for row in by_arm["fake"]}
    assert 2.0 <= ended["timeout", 200].ended_seconds - ended["timeout", 200].sent_seconds < 3.0
    assert ended["cut", 200].first_token_seconds is not None
    assert ended["http_error", 500].completion_tokens is None


def test_a_conversation_is_asked_turn_by_turn_with_the_servers_answers(server, scripted, load):
    script = json.dumps({"first_ms": 50, "num_chunks": 2})
    turns = [{"role": "user", "content": script}, {"role": "assistant", "content": "recorded"}]
    with server() as fake:
        _, rows = load(
            url=fake.url,
            loads=[20],
            warm_up_seconds=0,
            num_requests=4,
            workloads=[scripted({"messages": turns * 3}, sessions=True, think_seconds=0.2)],
            max_send_lag_ms=1000,
        )
    assert Counter((row.session, row.turn) for row in rows) == Counter(
        {(session, turn): 1 for session in range(4) for turn in range(3)}
    )
    # The fake server counts messages as tokens: each turn brings an answer and a question more.
    assert {(row.turn, row.prompt_tokens) for row in rows} == {(0, 1), (1, 3), (2, 5)}
    first = [row for row in rows if row.session == 0]
    for earlier, later in itertools.pairwise(first):
        assert abs(later.scheduled_seconds - earlier.ended_seconds - 0.2) < 1e-6
        assert later.sent_seconds >= later.scheduled_seconds - 0.002


def test_warm_up_is_marked_and_a_sweep_goes_through_its_loads(server, scripted, load):
    with server() as fake:
        record, rows = load(
            url=fake.url,
            loads=[10, 20],
            rounds=2,
            arrivals={"process": "constant"},
            warm_up_seconds=0.5,
            duration_seconds=0.5,
            workloads=[scripted(QUICK)],
            max_send_lag_ms=1000,
        )
    assert Counter((row.load, row.round, row.phase) for row in rows) == {
        (load, number, phase): load / 2
        for load in (10, 20)
        for number in (0, 1)
        for phase in ("warm_up", "measured")
    }
    assert [(cell.load, cell.round) for cell in record.cells] == [
        (10, 0),
        (20, 0),
        (10, 1),
        (20, 1),
    ]
    # No request of one cell meets those of the next.
    for cell in record.cells:
        own = [row for row in rows if (row.load, row.round) == (cell.load, cell.round)]
        assert min(row.scheduled_seconds for row in own) >= cell.begin_seconds
        assert max(row.ended_seconds for row in own) <= cell.end_seconds


def test_users_of_a_closed_loop_share_the_requests_and_wait_for_their_answers(
    server, scripted, load
):
    with server() as fake:
        _, rows = load(
            url=fake.url,
            mode="closed",
            loads=[3],
            warm_up_seconds=0.3,
            num_requests=8,
            workloads=[scripted({"first_ms": 100, "num_chunks": 1})],
        )
    measured = [row for row in rows if row.phase == "measured"]
    assert sorted(row.session for row in measured) == list(range(8))
    assert len(rows) > len(measured)  # the warm-up's come on top
    for user in range(3):
        own = [row for row in measured if row.session % 3 == user]
        for earlier, later in itertools.pairwise(own):
            assert later.sent_seconds >= earlier.ended_seconds


def test_a_generator_that_may_not_send_more_shows_it_as_lag(server, scripted, load):
    with server() as fake:
        record, rows = load(
            url=fake.url,
            loads=[20],
            arrivals={"process": "constant"},
            warm_up_seconds=0,
            num_requests=6,
            workloads=[scripted({"first_ms": 250, "num_chunks": 1})],
            max_in_flight=1,
        )
    # One at a time, 0.25 s each, due every 0.05 s: number n is sent 0.2 n late.
    for number, row in enumerate(rows):
        assert row.send_lag_seconds >= 0.2 * number - 0.005
        assert row.ttft_from_schedule_seconds == pytest.approx(
            row.send_lag_seconds + row.ttft_from_send_seconds
        )
    assert record.cells[0].p99_send_lag_ms >= 985  # between 800 and 1000
    assert record.saturated(50.0) == [record.cells[0]]
