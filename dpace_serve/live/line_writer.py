"""Lines written by a thread of its own, so that whoever makes them never waits for the disk."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Literal, Protocol

logger = logging.getLogger(__name__)

LossReason = Literal["queue_full", "disk_error", "limit_reached", "bad_line", "closed"]
"""Why a line was not written: more waited than may, the disk refused, its files have reached their
limit, it could not be made, or the writer was closed before."""

OnLost = Callable[[LossReason], None]

MakeLine = Callable[[], str]


class LimitReachedError(Exception):
    """A line has no room in its files, which may not grow any more."""


class LineSink(Protocol):
    """Where lines go; used by one thread."""

    def write(self, line: str) -> None:
        """Write a line, whole or not at all.

        Args:
            line: Without its newline.

        Raises:
            OSError: If the disk refuses.
            LimitReachedError: If there is no room for it.
        """
        ...

    def close(self) -> None:
        """Close what is open.

        Raises:
            OSError: If the disk refuses to store what was written.
        """
        ...


class LineWriter:
    """Hands lines to a sink, in their order, from a thread of its own.

    A line that cannot be written is counted through `on_lost`, and nothing is raised. The thread
    does not keep the process alive: `close` is what waits for the last lines.
    """

    def __init__(self, sink: LineSink, *, name: str, max_waiting: int, on_lost: OnLost) -> None:
        """Start the thread.

        Args:
            sink: Where lines go.
            name: Of the thread, and in the log.
            max_waiting: Lines that wait for the disk at most; further ones are lost.
            on_lost: Called once for each lost line, from this thread or the caller's.
        """
        self._sink = sink
        self._name = name
        self._on_lost = on_lost
        self._waiting: queue.Queue[MakeLine | None] = queue.Queue(max_waiting)
        self._closing = threading.Lock()
        self._is_closed = False
        self._told: set[LossReason] = set()
        self._thread = threading.Thread(target=self._write_all, name=name, daemon=True)
        self._thread.start()

    def put(self, make_line: MakeLine) -> None:
        """Have a line written; returns at once.

        Args:
            make_line: Makes the line, without its newline; called in the writer's thread.
        """
        with self._closing:  # held for no longer than it takes to look
            if self._is_closed:
                reason: LossReason = "closed"
            else:
                try:
                    self._waiting.put_nowait(make_line)
                except queue.Full:
                    reason = "queue_full"
                else:
                    return
        self._lose(reason)

    def close(self, timeout_seconds: float) -> None:
        """Write what waits and take no further lines; a second call changes nothing.

        Args:
            timeout_seconds: Longest wait for the disk; what waits then still is lost.
        """
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
        deadline = time.monotonic() + timeout_seconds
        try:
            self._waiting.put(None, timeout=timeout_seconds)
        except queue.Full:
            pass  # the disk hangs
        else:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._drop_waiting()
            self._waiting.put_nowait(None)

    def _drop_waiting(self) -> None:
        while True:
            try:
                make_line = self._waiting.get_nowait()
            except queue.Empty:
                return
            if make_line is not None:
                self._lose("closed")

    def _write_all(self) -> None:
        while (make_line := self._waiting.get()) is not None:
            self._write(make_line)
        try:
            self._sink.close()
        except OSError as error:
            logger.warning("%s: its end may not outlive a power cut (%s)", self._name, error)

    def _write(self, make_line: MakeLine) -> None:
        try:
            self._sink.write(make_line())
        except LimitReachedError as error:
            self._lose("limit_reached", error)
        except OSError as error:
            self._lose("disk_error", error)
        except Exception as error:  # noqa: BLE001 (one bad line must not cost all that follow)
            self._lose("bad_line", error)
        else:
            if "disk_error" in self._told:
                self._told.discard("disk_error")
                logger.warning("%s: lines are written again", self._name)

    def _lose(self, reason: LossReason, error: Exception | None = None) -> None:
        self._on_lost(reason)
        if reason not in self._told:
            self._told.add(reason)
            logger.error(
                "%s: a line was not written (%s%s); more of the same are only counted",
                self._name,
                reason.replace("_", " "),
                f": {error}" if error is not None else "",
            )
