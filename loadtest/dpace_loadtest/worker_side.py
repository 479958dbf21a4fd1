"""WorkerSide: does in a worker what the coordinator says, and sends it the rows."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

from dpace_loadtest import coordinator as protocol
from dpace_loadtest.arm_access import access_of
from dpace_loadtest.generator import Crew, Generator
from dpace_loadtest.plan import Cell, Place, cells
from dpace_loadtest.prompts import content_hash
from dpace_loadtest.rows import RequestRow
from dpace_loadtest.scenario import ScenarioConfig
from dpace_loadtest.statistics_events import event_values
from dpace_serve.config import build_config
from dpace_serve.errors import DpaceError

logger = logging.getLogger(__name__)

ROWS_PER_MESSAGE = 100
SECONDS_BETWEEN_MESSAGES = 1.0


class EndableCrew(Crew, Protocol):
    """A crew that can be sent home."""

    def kill(self) -> None:
        """End all that it does."""


class WorkerSide:
    """A worker's part of a run.

    Args:
        environment: Locust's, for messages and statistics.
        spawn: Begins a function beside others.
        make_crew: A crew that does so many requests at a time.
    """

    def __init__(
        self,
        environment: Any,  # noqa: ANN401 - locust has no types
        spawn: Callable[..., Any],
        make_crew: Callable[[int], EndableCrew],
    ) -> None:
        self._environment = environment
        self._spawn = spawn
        self._make_crew = make_crew
        self._crew: EndableCrew | None = None
        self._generator: Generator | None = None
        self._cells: list[Cell] = []
        self._waiting: list[dict[str, Any]] = []
        self._sent = 0.0
        self._task: Any = None

    def on_start(self, **_: object) -> None:
        """Locust starts a run."""
        self._send(protocol.READY, {})

    def on_stop(self, **_: object) -> None:
        """Locust stops it, whether it is done or not."""
        if self._task is not None:
            self._task.kill(block=False)
        if self._crew is not None:
            self._crew.kill()

    def on_setup(self, *, environment: object, msg: Any) -> None:  # noqa: ANN401, ARG002 - locust's names
        """The coordinator says what the scenario is."""
        self._task = self._spawn(self._report_faults, protocol.PREPARED, self._set_up, msg.data)

    def on_cell(self, *, environment: object, msg: Any) -> None:  # noqa: ANN401, ARG002 - locust's names
        """The coordinator says that a cell begins."""
        received = time.perf_counter()
        self._task = self._spawn(
            self._report_faults, protocol.DONE, self._run_cell, msg.data, received
        )

    def _report_faults(self, kind: str, do: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401 - those of any function
        try:
            do(*arguments)
        except DpaceError as error:
            self._send(kind, {"error": str(error)})
        except Exception as error:
            # Whatever it was, the master would wait for this worker for ever.
            logger.exception("the generator itself failed")
            self._send(kind, {"error": f"fault of the generator: {error!r}"})
            raise

    def _set_up(self, setup: dict[str, Any]) -> None:
        scenario = build_config(ScenarioConfig, setup["scenario"], source="the master")
        self._cells = cells(scenario)
        self._crew = self._make_crew(scenario.max_in_flight)
        self._generator = Generator(
            setup["run_id"],
            scenario,
            Place(setup["worker"], setup["num_workers"]),
            {arm.name: access_of(arm, scenario) for arm in scenario.arms},
            self._crew,
            self._leave,
        )
        prompts = content_hash(self._generator.conversations)
        self._send(protocol.PREPARED, {"prompts_sha256": prompts})

    def _run_cell(self, order: dict[str, Any], received: float) -> None:
        assert self._generator is not None  # the coordinator waits for it  # noqa: S101
        number = order["number"]
        cpu_before = time.process_time()
        self._generator.run(
            self._cells[number],
            zero=received - order["elapsed_seconds"],
            start=received + order["lead_seconds"],
        )
        self._flush()
        cpu_share = (time.process_time() - cpu_before) / (time.perf_counter() - received)
        self._send(protocol.DONE, {"number": number, "cpu_share": cpu_share})

    def _leave(self, row: RequestRow) -> None:
        self._waiting.append(asdict(row))
        is_late = time.perf_counter() - self._sent > SECONDS_BETWEEN_MESSAGES
        if is_late or len(self._waiting) >= ROWS_PER_MESSAGE:
            self._flush()
        if row.phase == "measured":
            for values in event_values(row):
                self._environment.events.request.fire(**values)

    def _flush(self) -> None:
        rows, self._waiting = self._waiting, []
        self._sent = time.perf_counter()
        if rows:
            self._send(protocol.ROWS, {"rows": rows})

    def _send(self, kind: str, message: protocol.Message) -> None:
        self._environment.runner.send_message(kind, message)
