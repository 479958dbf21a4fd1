"""SloConfig: what a request must keep to count as good, and how many of them must."""

from typing import Annotated

from pydantic import Field

from dpace_serve.config import Config

Milliseconds = Annotated[float, Field(gt=0)]


class SloConfig(Config):
    """A service-level objective; a limit that is not set is not checked.

    A request is good if it ended well and kept every limit that is set. One that failed, was
    refused or timed out is never good.
    """

    ttft_ms: Milliseconds | None = None
    """Longest time to the first token, from the scheduled time, in ms."""
    tpot_ms: Milliseconds | None = None
    """Longest time per output token after the first, in ms."""
    end_to_end_ms: Milliseconds | None = None
    """Longest time from the scheduled time to the end of the answer, in ms."""
    min_goodput_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the measured requests of every arm and load that must be good; none only reports."""
