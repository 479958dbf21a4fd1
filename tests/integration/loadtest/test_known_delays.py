"""What is measured against what is known, a stall of 4 s included."""

import statistics

import pytest

from dpace_loadtest.percentiles import percentile

STALL_SECONDS = 4.0


def work_done(received, delay, stall_begin):
    """When a server that stalls is done, by walking through time in steps of a millisecond."""
    clock, left = received, delay
    while left > 1e-9:
        if not stall_begin <= clock < stall_begin + STALL_SECONDS:
            left -= 1e-3
        clock += 1e-3
    return clock


def test_times_are_within_2_percent_of_the_schedule_through_a_stall(server, scripted, load):
    first, gap, num_chunks, tokens_per_chunk = 1.0, 0.25, 4, 2
    stall_begin = 1.3
    workload = scripted(
        {
            "first_ms": 1e3 * first,
            "gap_ms": 1e3 * gap,
            "num_chunks": num_chunks,
            "tokens_per_chunk": tokens_per_chunk,
        }
    )
    with server("--stall-after", str(stall_begin)) as fake:
        record, rows = load(
            url=fake.url,
            loads=[8],
            arrivals={"process": "constant"},
            warm_up_seconds=0,
            duration_seconds=6,
            workloads=[workload],
            max_send_lag_ms=1000,
        )
    assert len(rows) == 48
    assert {row.outcome for row in rows} == {"ok"}
    assert {row.completion_tokens for row in rows} == {8}
    begin = record.cells[0].begin_seconds
    expected_ttft, expected_tpot = [], []
    for number, row in enumerate(rows):
        due = number / 8
        assert row.scheduled_seconds - begin == pytest.approx(due, abs=1e-6)
        first_done = work_done(due, first, stall_begin)
        last_done = work_done(due, first + 3 * gap, stall_begin)
        expected_ttft.append(first_done - due)
        expected_tpot.append((last_done - first_done) / 7)
    # Requests due from 0.375 to 5.25 s meet the stall: the expected values are far apart.
    assert percentile(sorted(expected_ttft), 95) > 4.5
    ttft = [row.ttft_from_schedule_seconds for row in rows]
    tpot = [row.tpot_seconds for row in rows]
    for measured, expected in ((ttft, expected_ttft), (tpot, expected_tpot)):
        for percent in (50, 95):
            assert percentile(sorted(measured), percent) == pytest.approx(
                percentile(sorted(expected), percent), rel=0.02
            )
        errors = [abs(one / known - 1) for one, known in zip(measured, expected, strict=True)]
        assert statistics.median(errors) <= 0.02


@pytest.fixture(scope="module")
def quick_answers():
    return {"first_ms": 100, "gap_ms": 10, "num_chunks": 2}


def test_an_open_loop_shows_a_stall(server, scripted, load, quick_answers):
    with server("--stall-after", "1") as fake:
        _, rows = load(
            url=fake.url,
            loads=[30],
            warm_up_seconds=0,
            duration_seconds=6,
            workloads=[scripted(quick_answers)],
            max_send_lag_ms=1000,
        )
    # Two thirds of the time it stalls: a user who comes then waits up to 4 s.
    ttft = [row.ttft_from_schedule_seconds for row in rows]
    assert percentile(sorted(ttft), 95) > 3.0
    assert percentile(sorted(ttft), 50) > 0.5


def test_a_closed_loop_hides_the_same_stall(server, scripted, load, quick_answers):
    with server("--stall-after", "1") as fake:
        _, rows = load(
            url=fake.url,
            mode="closed",
            loads=[3],
            warm_up_seconds=0,
            duration_seconds=8,
            workloads=[scripted(quick_answers)],
        )
    # Its three users wait once each, and nobody else comes in the meantime.
    ttft = sorted(row.ttft_from_schedule_seconds for row in rows)
    assert [value > 1 for value in ttft[-4:]] == [False, True, True, True]
    assert percentile(sorted(ttft), 95) < 0.2
