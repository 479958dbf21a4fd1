"""The acceptance log: every record as a line of JSON, written beside the server's own work."""

import contextlib
import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self

from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.config import AcceptanceLogConfig
from dpace_serve.errors import ConfigError
from dpace_serve.live.rotating_file import RotatingFile

logger = logging.getLogger(__name__)

MAX_WAITING_RECORDS = 4096
"""Records that wait for the disk at most, some 30 MB where answers have 500 steps."""
CLOSE_TIMEOUT_SECONDS = 10.0
"""How long closing waits for a disk that hangs."""

OnLost = Callable[[int], None]
"""Counts records that were lost; called from any thread, and must not raise."""


class AcceptanceLog:
    """Appends a line for each record, from a thread of its own, so that nobody waits for the disk.

    A line has the time at which the record came, in UTC and ISO 8601, under `time`, and beside it
    what `RequestAcceptance.to_dict` says. Lines of one thread keep their order. A record that
    cannot be written is counted through `on_lost`; nothing is ever raised. The thread does not
    keep the process alive: `close` is what waits for the last records.
    """

    def __init__(
        self,
        file: RotatingFile,
        *,
        max_waiting: int,
        on_lost: OnLost,
        now: Callable[[], datetime],
    ) -> None:
        """Start the thread.

        Args:
            file: Where lines go; used by the thread alone from now on.
            max_waiting: Records that wait for the disk at most; further ones are lost.
            on_lost: Called with the number of lost records.
            now: The time, with its time zone.
        """
        self._file = file
        self._on_lost = on_lost
        self._now = now
        self._waiting: queue.Queue[tuple[datetime, RequestAcceptance] | None]
        self._waiting = queue.Queue(max_waiting)
        self._taking = threading.Lock()
        self._is_closed = False
        self._num_failed = 0
        self._thread = threading.Thread(target=self._write_all, name="acceptance-log", daemon=True)
        self._thread.start()

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
        entry = (self._now(), record)
        # Under the lock nothing gets behind the mark that ends the thread.
        with self._taking:
            is_taken = not self._is_closed and self._put(entry)
        if not is_taken:
            self._on_lost(1)

    def close(self, timeout_seconds: float = CLOSE_TIMEOUT_SECONDS) -> None:
        """Write what waits, close the file, and take no further records.

        Args:
            timeout_seconds: Longest wait for the disk; what waits then still is lost.
        """
        with self._taking:
            if self._is_closed:
                return
            self._is_closed = True
        deadline = time.monotonic() + timeout_seconds
        with contextlib.suppress(queue.Full):  # where the disk hangs
            self._waiting.put(None, timeout=timeout_seconds)
            self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            num_left = self._empty()
            self._waiting.put_nowait(None)
            self._on_lost(num_left)
            logger.error("acceptance log: %d records were not written before the end", num_left)

    def _put(self, entry: tuple[datetime, RequestAcceptance]) -> bool:
        try:
            self._waiting.put_nowait(entry)
        except queue.Full:
            return False
        return True

    def _empty(self) -> int:
        num_records = 0
        while True:
            try:
                num_records += self._waiting.get_nowait() is not None
            except queue.Empty:
                return num_records

    def _write_all(self) -> None:
        while (entry := self._waiting.get()) is not None:
            error = self._write_one(*entry)
            if error is not None:
                self._on_lost(1)
            self._tell_change(error)
        try:
            self._file.close()
        except OSError as error:
            logger.warning("acceptance log: its end may not outlive a power cut (%s)", error)

    def _write_one(self, came: datetime, record: RequestAcceptance) -> Exception | None:
        row = {"time": came.isoformat(timespec="milliseconds"), **record.to_dict()}
        try:
            self._file.write(json.dumps(row, allow_nan=False, separators=(",", ":")))
        except Exception as error:  # noqa: BLE001  (one record must not cost all that follow)
            return error
        return None

    def _tell_change(self, error: Exception | None) -> None:
        """Say once that writing fails, and once that it works again."""
        if error is None and self._num_failed:
            logger.warning("acceptance log: written again, %d records lost", self._num_failed)
        elif error is not None and not self._num_failed:
            logger.error(
                "acceptance log: a record was not written (%s); more are only counted, in "
                "dpace_export_errors_total",
                error,
            )
        self._num_failed = self._num_failed + 1 if error is not None else 0
