"""Our generator inside locust: the one module that imports it, because that patches sockets.

Locust brings workers, web page and CSV files; when to send and what was measured is ours. Each
worker runs one dispatcher, whatever number of users locust is asked for.
"""

import contextlib
import logging
import os
import uuid
from pathlib import Path
from typing import Any

import gevent
import gevent.pool
from locust import User, events
from locust.runners import WORKER_REPORT_INTERVAL, LocalRunner, MasterRunner, WorkerRunner
from locust.stats import CSV_STATS_INTERVAL_SEC

from dpace_loadtest import coordinator as protocol
from dpace_loadtest.coordinator import Coordinator
from dpace_loadtest.run_record import RunRecord, write_failure, write_record
from dpace_loadtest.saturation import saturation
from dpace_loadtest.scenario import ScenarioConfig
from dpace_loadtest.worker_side import WorkerSide
from dpace_serve.command_line import EXIT_BAD_RESULT, EXIT_MISTAKE
from dpace_serve.config import load_config
from dpace_serve.errors import ConfigError, DpaceError
from dpace_serve.result_file import require_writable

logger = logging.getLogger(__name__)

SCENARIO_VARIABLE = "DPACE_SCENARIO"
SECONDS_BETWEEN_LOOKS = 1.0


def _wait(_user: User) -> None:
    gevent.sleep(3600)


class ModelTraffic(User):
    """Stands for a worker's dispatcher in locust's count of users; the dispatcher sends."""

    fixed_count = 1
    # Assigned, because locust's decorator would leave the function without a type.
    tasks = [_wait]  # noqa: RUF012 - a list is what locust reads


class _GreenletCrew:
    """Many requests at a time, each in a greenlet."""

    def __init__(self, size: int) -> None:
        self._pool = gevent.pool.Pool(size)
        self._failure: BaseException | None = None

    def spawn(self, function: Any, *arguments: Any) -> None:  # noqa: ANN401 - those of any function
        """Begin one; waits while there are as many as there may be."""
        self._pool.spawn(function, *arguments).link_exception(self._note)

    def join(self) -> None:
        """Return when all have ended; raises what one of them raised."""
        self._pool.join()
        if self._failure is not None:
            raise self._failure

    def sleep(self, seconds: float) -> None:
        """Let the others go on for some time."""
        gevent.sleep(seconds)

    def kill(self) -> None:
        """End all."""
        self._pool.kill()

    def _note(self, greenlet: Any) -> None:  # noqa: ANN401 - gevent has no types
        self._failure = self._failure or greenlet.exception


class MasterSide:
    """The master's part: a coordinator for each run, the files, and the end of locust."""

    def __init__(self, environment: Any) -> None:  # noqa: ANN401 - locust has no types
        self._environment = environment
        self._options = environment.parsed_options
        self._files = contextlib.ExitStack()
        self._coordinator: Coordinator | None = None
        self._max_send_lag_ms = 0.0

    def on_start(self, **_: object) -> None:
        """Locust starts a run."""
        runner = self._environment.runner
        rows = Path(self._options.rows or os.devnull)
        scenario = scenario_of(self._environment)
        self._max_send_lag_ms = scenario.max_send_lag_ms
        self._coordinator = Coordinator(
            uuid.uuid4().hex[:12],
            scenario,
            runner.worker_count,
            self._files.enter_context(rows.open("w", encoding="utf-8")),
            self,
            self._end,
        )
        gevent.spawn(self._watch, self._coordinator)

    def on_stop(self, **_: object) -> None:
        """Locust stops a run; one that a person stopped is not whole."""
        if self._coordinator is not None:
            self._coordinator.fail("stopped before its end")
        self._files.close()

    def on_message(self, *, environment: object, msg: Any) -> None:  # noqa: ANN401, ARG002 - locust's names
        """A worker says something."""
        if self._coordinator is not None:
            self._coordinator.take(msg.type, msg.data, msg.node_id)

    def send(self, kind: str, message: protocol.Message, worker: str) -> None:
        """Send to one worker, by its name."""
        self._environment.runner.send_message(kind, message, worker)

    def _watch(self, coordinator: Coordinator) -> None:
        """A run without one of its workers would wait for it for ever."""
        runner = self._environment.runner
        while not coordinator.has_ended and isinstance(runner, MasterRunner):
            gevent.sleep(SECONDS_BETWEEN_LOOKS)
            alive = {worker.id for worker in runner.clients.all if worker.state != "missing"}
            gone = [worker for worker in coordinator.workers if worker not in alive]
            if gone or len(alive) < coordinator.num_workers:
                names = ", ".join(gone) or "one that had not begun"
                coordinator.fail(f"a worker is gone ({names}). Start it and run again.")

    def _end(self, result: RunRecord | str) -> None:
        code = 0
        reason = result if isinstance(result, str) else saturation(result, self._max_send_lag_ms)
        if reason is not None:
            code = EXIT_MISTAKE if isinstance(result, str) else EXIT_BAD_RESULT
        if self._options.record:
            _write_result(Path(self._options.record), result)  # and who asked for it says it
        elif reason is not None:
            logger.error("%s", reason)
        # Failed requests are a result, not a failure of the run.
        self._environment.process_exit_code = code
        runner = self._environment.runner
        # Not from here: it ends the greenlet that brought the last message.
        gevent.spawn_later(
            self._seconds_until_written(), runner.quit if self._options.headless else runner.stop
        )

    def _seconds_until_written(self) -> float:
        """How long locust takes to write the newest statistics to its CSV files, if it does."""
        if not self._options.csv_prefix:
            return 0.0
        seconds: float = CSV_STATS_INTERVAL_SEC + 0.5
        if isinstance(self._environment.runner, MasterRunner):
            seconds += WORKER_REPORT_INTERVAL
        return seconds


def _write_result(path: Path, result: RunRecord | str) -> None:
    if isinstance(result, str):
        write_failure(path, result)
    else:
        write_record(path, result)


def scenario_of(environment: Any) -> ScenarioConfig:  # noqa: ANN401 - locust has no types
    """The scenario that the command line or the environment names; `--host` is its URL.

    Raises:
        ConfigError: If none is named or it breaks a rule.
    """
    options = environment.parsed_options
    if not options.scenario:
        raise ConfigError(
            f"locust must know the scenario. Add --scenario FILE, or set {SCENARIO_VARIABLE}."
        )
    # The web page's field is in the environment, the command line's option in both.
    overrides = [f"url={environment.host}"] if environment.host else []
    return load_config(ScenarioConfig, Path(options.scenario), overrides)


def _add_options(parser: Any) -> None:  # noqa: ANN401 - locust has no types
    ours = parser.add_argument_group("dpace")
    ours.add_argument(
        "--scenario", env_var=SCENARIO_VARIABLE, help="YAML file of the load test", metavar="FILE"
    )
    ours.add_argument("--rows", help="JSONL file for a row per request", metavar="FILE")
    ours.add_argument("--record", help="JSON file for the record of the run", metavar="FILE")


def _set_up(environment: Any, runner: Any, **_: object) -> None:  # noqa: ANN401 - locust has no types
    if environment.parsed_options.skip_log_setup:
        # Locust's first message has set logging up, and with another format.
        logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("dpace_loadtest").setLevel(logging.INFO)
    if isinstance(runner, LocalRunner | MasterRunner):
        _check_options(environment)
        master = MasterSide(environment)
        environment.events.test_start.add_listener(master.on_start)
        environment.events.test_stop.add_listener(master.on_stop)
        for kind in (protocol.READY, protocol.PREPARED, protocol.ROWS, protocol.DONE):
            runner.register_message(kind, master.on_message)
    if isinstance(runner, LocalRunner | WorkerRunner):
        worker = WorkerSide(environment, gevent.spawn, _GreenletCrew)
        environment.events.test_start.add_listener(worker.on_start)
        environment.events.test_stop.add_listener(worker.on_stop)
        runner.register_message(protocol.SETUP, worker.on_setup)
        runner.register_message(protocol.CELL, worker.on_cell)


def _check_options(environment: Any) -> None:  # noqa: ANN401 - locust has no types
    options = environment.parsed_options
    try:
        scenario_of(environment)
        for file in (options.rows, options.record):
            require_writable(Path(file) if file else None)
    except DpaceError as error:
        logger.error("%s", error)  # noqa: TRY400 - a mistake of the user is one line
        raise SystemExit(EXIT_MISTAKE) from None


events.init_command_line_parser.add_listener(_add_options)
events.init.add_listener(_set_up)
