"""Goodput: requests that kept every limit of the SLO."""

from collections.abc import Sequence
from dataclasses import dataclass

from dpace_loadtest.rows import RequestRow
from dpace_loadtest.run_facts import SloLimits


@dataclass(frozen=True, slots=True)
class Goodput:
    """How many requests were good.

    Attributes:
        num_good: Requests that kept all limits.
        share: Of all that were measured, failed ones too.
        per_second: Good requests per second of the window; none without one.
    """

    num_good: int
    share: float
    per_second: float | None


def goodput(
    rows: Sequence[RequestRow], slo: SloLimits, window_seconds: float | None
) -> Goodput | None:
    """Goodput of measured requests; none without a limit or without a request.

    Args:
        rows: All measured requests, whatever their outcome.
        slo: The limits.
        window_seconds: Time in which they ran.
    """
    if not slo.has_limits or not rows:
        return None
    num_good = sum(is_good(row, slo) for row in rows)
    rate = num_good / window_seconds if window_seconds else None
    return Goodput(num_good, num_good / len(rows), rate)


def is_good(row: RequestRow, slo: SloLimits) -> bool:
    """Whether a request kept every limit; one that failed did not.

    An answer without any text is judged by its end where the first token has a limit. An answer of
    one token has no time per further token and cannot break that limit; where the server did not
    say how many tokens it has, nothing proves that the limit was kept, so it was not.
    """
    if row.outcome != "ok":
        return False
    first = row.ttft_from_schedule_seconds
    is_short = row.completion_tokens is not None and row.completion_tokens < 2
    tpot = 0.0 if is_short else row.tpot_seconds
    return (
        _keeps(row.end_to_end_seconds if first is None else first, slo.ttft_seconds)
        and _keeps(tpot, slo.tpot_seconds)
        and _keeps(row.end_to_end_seconds, slo.end_to_end_seconds)
    )


def _keeps(value: float | None, limit: float | None) -> bool:
    return limit is None or (value is not None and value <= limit)
