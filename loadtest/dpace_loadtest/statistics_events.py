"""What locust's own statistics are told of a request, so that its page and CSV files show it."""

from collections.abc import Iterator
from typing import Any

from dpace_loadtest.rows import RequestRow


def event_values(row: RequestRow) -> Iterator[dict[str, Any]]:
    """Arguments of `events.request` for each thing measured, times in ms.

    The type of an entry says what was measured, its name is arm and workload. Only `end_to_end`
    counts failures; the others have no value then.
    """
    error = None if row.outcome == "ok" else RuntimeError(f"{row.outcome}: {row.error}")
    yield _values(row, "end_to_end", row.end_to_end_seconds, error)
    yield _values(row, "send_lag", row.send_lag_seconds)
    for kind, seconds in (
        ("ttft_from_schedule", row.ttft_from_schedule_seconds),
        ("ttft_from_send", row.ttft_from_send_seconds),
        ("tpot", row.tpot_seconds),
    ):
        if seconds is not None:
            yield _values(row, kind, seconds)
    for gap in row.chunk_gaps_seconds:
        yield _values(row, "chunk_gap", gap)


def _values(
    row: RequestRow, kind: str, seconds: float, error: Exception | None = None
) -> dict[str, Any]:
    return {
        "request_type": kind,
        "name": f"{row.arm} {row.workload}",
        "response_time": 1e3 * seconds,
        "response_length": 0,
        "exception": error,
        "context": {},
    }
