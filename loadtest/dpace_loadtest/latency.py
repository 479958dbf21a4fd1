"""Latencies of the requests that were answered to the end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from dpace_loadtest.percentiles import Distribution
from dpace_loadtest.rows import RequestRow


@dataclass(frozen=True, slots=True)
class Latency:
    """Distributions over the ok requests, all in seconds; failures are counted, not timed.

    Attributes:
        ttft_from_schedule: Time to the first token as a user who came in time saw it.
        ttft_from_send: Time to the first token as the server could be blamed for.
        tpot: Time per output token after the first, one value a request.
        chunk_gap: Times between chunks, of which one carries several tokens under speculation.
        end_to_end: From the scheduled time to the end of the answer.
    """

    ttft_from_schedule: Distribution
    ttft_from_send: Distribution
    tpot: Distribution
    chunk_gap: Distribution
    end_to_end: Distribution

    @classmethod
    def of(cls, rows: Sequence[RequestRow]) -> Self:
        """Of the rows whose outcome is ok."""
        answered = [row for row in rows if row.outcome == "ok"]
        return cls(
            ttft_from_schedule=Distribution.of(row.ttft_from_schedule_seconds for row in answered),
            ttft_from_send=Distribution.of(row.ttft_from_send_seconds for row in answered),
            tpot=Distribution.of(row.tpot_seconds for row in answered),
            chunk_gap=Distribution.of(gap for row in answered for gap in row.chunk_gaps_seconds),
            end_to_end=Distribution.of(row.end_to_end_seconds for row in answered),
        )
