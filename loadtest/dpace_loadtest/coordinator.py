"""Coordinator: leads the workers through the cells of a run, and gathers their rows.

    worker   ready                             -> all are there
    master   setup: scenario, place            -> each reads its prompts
    worker   prepared: hash of them, or error
    master   cell: number                      -> each sends its part
    worker   rows, rows, ..., cell done

The master begins the next cell when all workers have done the last one, so that no request of
one arm meets those of another.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

from dpace_loadtest.percentiles import percentile
from dpace_loadtest.plan import Cell, cells
from dpace_loadtest.run_record import CellRecord, RunRecord
from dpace_loadtest.scenario import ScenarioConfig

logger = logging.getLogger(__name__)

LEAD_SECONDS = 0.5
"""From the order to begin a cell to its second 0: the workers make their schedules in it."""

READY = "dpace_ready"
SETUP = "dpace_setup"
PREPARED = "dpace_prepared"
CELL = "dpace_cell"
ROWS = "dpace_rows"
DONE = "dpace_cell_done"

Message = dict[str, Any]


class Post(Protocol):
    """Sends messages to workers."""

    def send(self, kind: str, message: Message, worker: str) -> None:
        """Send to one worker, by its name."""


@dataclass(slots=True)
class _RunningCell:
    number: int
    cell: Cell
    begin_seconds: float
    num_requests: int = 0
    num_failed: int = 0
    send_lags: list[float] = field(default_factory=list)
    cpu_shares: dict[str, float] = field(default_factory=dict)


class Coordinator:
    """The master's side of a run.

    Args:
        run_id: Begins the id of every request.
        scenario: What is run.
        num_workers: Workers to wait for.
        rows: Takes a line of JSON for each request.
        post: Reaches the workers.
        end: Called once, with the record of the whole run or the reason why there is none.
        now: Clock in seconds.
    """

    def __init__(
        self,
        run_id: str,
        scenario: ScenarioConfig,
        num_workers: int,
        rows: TextIO,
        post: Post,
        end: Callable[[RunRecord | str], None],
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._run_id = run_id
        self._scenario = scenario
        self.num_workers = num_workers
        self._rows = rows
        self._post = post
        self._end = end
        self._now = now
        self._cells = cells(scenario)
        self._workers: list[str] = []
        self._hashes: dict[str, str] = {}
        self._zero = 0.0
        self._started_unix_seconds = 0.0
        self._running: _RunningCell | None = None
        self._done: list[CellRecord] = []
        self.has_ended = False

    @property
    def workers(self) -> Sequence[str]:
        """Names of the workers that take part."""
        return self._workers

    def take(self, kind: str, message: Message, worker: str) -> None:
        """Act on a message of a worker; after the end, and of strangers, none counts."""
        if self.has_ended:
            return
        if kind == READY:
            self._on_ready(worker)
        elif worker in self._workers:
            if message.get("error") is not None:
                self.fail(message["error"])
            elif kind == PREPARED:
                self._on_prepared(message, worker)
            elif kind == ROWS:
                self._on_rows(message)
            elif kind == DONE:
                self._on_done(message, worker)

    def fail(self, reason: str) -> None:
        """End the run without its record."""
        if not self.has_ended:
            self.has_ended = True
            self._end(reason)

    def _on_ready(self, worker: str) -> None:
        if worker in self._workers or len(self._workers) == self.num_workers:
            return
        self._workers.append(worker)
        if len(self._workers) < self.num_workers:
            return
        scenario = self._scenario.model_dump(mode="json")
        for place, name in enumerate(self._workers):
            setup = {
                "run_id": self._run_id,
                "scenario": scenario,
                "worker": place,
                "num_workers": self.num_workers,
            }
            self._post.send(SETUP, setup, name)

    def _on_prepared(self, message: Message, worker: str) -> None:
        self._hashes[worker] = message["prompts_sha256"]
        if len(set(self._hashes.values())) > 1:
            self.fail(
                "the workers must have the same prompts, but their files differ. "
                "Copy the prompt files of the scenario to every machine."
            )
        elif len(self._hashes) == self.num_workers:
            self._zero = self._now()
            self._started_unix_seconds = time.time()
            self._begin(0)

    def _begin(self, number: int) -> None:
        # Readings of a clock mean nothing on another machine, but how long ago the run began does.
        elapsed = self._now() - self._zero
        self._running = _RunningCell(number, self._cells[number], elapsed + LEAD_SECONDS)
        order = {"number": number, "elapsed_seconds": elapsed, "lead_seconds": LEAD_SECONDS}
        for worker in self._workers:
            self._post.send(CELL, order, worker)

    def _on_rows(self, message: Message) -> None:
        running = self._running
        if running is None:
            return
        for row in message["rows"]:
            self._rows.write(json.dumps(row) + "\n")
            running.num_requests += 1
            running.num_failed += row["outcome"] != "ok"
            if row["phase"] == "measured":
                running.send_lags.append(row["sent_seconds"] - row["scheduled_seconds"])

    def _on_done(self, message: Message, worker: str) -> None:
        running = self._running
        if running is None or message["number"] != running.number:
            return
        running.cpu_shares[worker] = message["cpu_share"]
        if len(running.cpu_shares) < self.num_workers:
            return
        self._rows.flush()
        record = _record(running, end_seconds=self._now() - self._zero)
        self._done.append(record)
        logger.info("%s", _progress(record, self._scenario, len(self._done), len(self._cells)))
        if len(self._done) < len(self._cells):
            self._begin(running.number + 1)
            return
        self.has_ended = True
        self._end(
            RunRecord(
                run_id=self._run_id,
                started_unix_seconds=self._started_unix_seconds,
                num_workers=self.num_workers,
                prompts_sha256=next(iter(self._hashes.values())),
                cells=tuple(self._done),
            )
        )


def _record(running: _RunningCell, *, end_seconds: float) -> CellRecord:
    lags = running.send_lags
    return CellRecord(
        arm=running.cell.arm.name,
        load=running.cell.load,
        round=running.cell.round,
        begin_seconds=running.begin_seconds,
        end_seconds=end_seconds,
        num_requests=running.num_requests,
        num_failed=running.num_failed,
        p99_send_lag_ms=1e3 * percentile(sorted(lags), 99) if lags else None,
        cpu_share=max(running.cpu_shares.values()),
    )


def _progress(record: CellRecord, scenario: ScenarioConfig, number: int, total: int) -> str:
    unit = "requests/s" if scenario.mode == "open" else "users, closed loop"
    lag = record.p99_send_lag_ms
    return (
        f"[{number}/{total}] {record.arm}, {record.load:g} {unit}, round {record.round + 1}: "
        f"{record.num_requests} requests, {record.num_failed} failed, "
        f"{record.end_seconds - record.begin_seconds:.1f} s"
        + ("" if lag is None else f", p99 lag of sending {lag:.1f} ms")
    )
