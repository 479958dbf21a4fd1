"""The acceptance log: every record as a line of JSON, written beside the server's own work."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self

from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.errors import ConfigError
from dpace_serve.live.line_writer import LineSink, LineWriter
from dpace_serve.live.rotating_file import RotatingFile
from dpace_serve.serve_config import AcceptanceLogConfig

MAX_WAITING_RECORDS = 4096
"""Records that wait for the disk at most, some 30 MB where answers have 500 steps."""
CLOSE_TIMEOUT_SECONDS = 10.0
"""How long closing waits for a disk that hangs."""

Clock = Callable[[], datetime]

OnLost = Callable[[int], None]
"""Counts records that were lost; called from any thread, and must not raise."""


class AcceptanceLog:
    """Appends a line for each record, from a thread of its own, so that nobody waits for the disk.

    A line has the time at which the record came, in UTC and ISO 8601, under `time`, and beside it
    what `RequestAcceptance.to_dict` says. Lines of one thread keep their order. A record that
    cannot be written is counted through `on_lost`; nothing is ever raised. The thread does not
    keep the process alive: `close` is what waits for the last records.
    """

    def __init__(self, sink: LineSink, *, max_waiting: int, on_lost: OnLost, now: Clock) -> None:
        """Start the thread.

        Args:
            sink: Where lines go; used by the thread alone from now on.
            max_waiting: Records that wait for the disk at most; further ones are lost.
            on_lost: Called with the number of lost records.
            now: The time, with its time zone.
        """
        self._now = now
        self._writer = LineWriter(
            sink, name="acceptance log", max_waiting=max_waiting, on_lost=lambda _: on_lost(1)
        )

    @classmethod
    def open(cls, config: AcceptanceLogConfig, *, on_lost: OnLost) -> Self:
        """The log at the configured place.

        Args:
            config: Place, size and policy.
            on_lost: Called with the number of lost records.

        Raises:
            ConfigError: If the file cannot be opened.
        """
        try:
            file = RotatingFile(
                config.path,
                max_bytes=config.max_megabytes * 10**6,
                keep_files=config.keep_files,
                fsync=config.fsync,
            )
        except OSError as error:
            raise ConfigError(
                f"acceptance_log.path must be a file that can be opened for its owner only, got "
                f"{config.path} ({error.strerror}). Create its folder, or correct the path."
            ) from None
        return cls(
            file, max_waiting=MAX_WAITING_RECORDS, on_lost=on_lost, now=lambda: datetime.now(UTC)
        )

    def write(self, record: RequestAcceptance) -> None:
        """Have a record written; returns at once."""
        came = self._now()
        self._writer.put(lambda: _line(came, record))

    def close(self, timeout_seconds: float = CLOSE_TIMEOUT_SECONDS) -> None:
        """Write what waits, close the file, and take no further records.

        Args:
            timeout_seconds: Longest wait for the disk; what waits then still is lost.
        """
        self._writer.close(timeout_seconds)


def _line(came: datetime, record: RequestAcceptance) -> str:
    row = {"time": came.isoformat(timespec="milliseconds"), **record.to_dict()}
    return json.dumps(row, allow_nan=False, separators=(",", ":"))
