"""Our generator inside locust: the one module that imports it, because that patches sockets.

Locust brings workers, web page and CSV files; when to send and what was measured is ours. Each
worker runs one dispatcher, whatever number of users locust is asked for.
"""

import contextlib
import logging
import os
import time
import uuid
from pathlib import Path
from typing import Any

import gevent
import gevent.pool
from locust import User, events
from locust.runners import WORKER_REPORT_INTERVAL, LocalRunner, MasterRunner, WorkerRunner
from locust.stats import CSV_STATS_INTERVAL_SEC

from dpace_loadtest import coordinator as protocol
from dpace_loadtest.arm_access import access_of
from dpace_loadtest.coordinator import Coordinator
from dpace_loadtest.generator import Generator
from dpace_loadtest.plan import Place, cells
from dpace_loadtest.prompts import content_hash
from dpace_loadtest.row_file import row_to_dict
from dpace_loadtest.rows import RequestRow
from dpace_loadtest.run_facts import RunFacts, write_facts, write_failure
from dpace_loadtest.saturation import saturation
from dpace_loadtest.scenario import ScenarioConfig
from dpace_loadtest.statistics_events import event_values
from dpace_serve.command_line import EXIT_BAD_RESULT, EXIT_MISTAKE
from dpace_serve.config import build_config, load_config
from dpace_serve.errors import ConfigError, DpaceError

logger = logging.getLogger(__name__)

SCENARIO_VARIABLE = "DPACE_SCENARIO"
ROWS_PER_MESSAGE = 100
SECONDS_BETWEEN_MESSAGES = 1.0
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


class WorkerSide:
    """A worker's part: does what the coordinator says, and sends it the rows."""

    def __init__(self, environment: Any) -> None:  # noqa: ANN401 - locust has no types
        self._environment = environment
        self._crew: _GreenletCrew | None = None
        self._generator: Generator | None = None
        self._scenario: ScenarioConfig | None = None
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
        self._task = gevent.spawn(self._set_up, msg.data)

    def on_cell(self, *, environment: object, msg: Any) -> None:  # noqa: ANN401, ARG002 - locust's names
        """The coordinator says that a cell begins."""
        received = time.perf_counter()
        self._task = gevent.spawn(self._run_cell, msg.data, received)

    def _set_up(self, setup: dict[str, Any]) -> None:
        try:
            scenario = build_config(ScenarioConfig, setup["scenario"], source="the master")
            self._scenario = scenario
            self._crew = _GreenletCrew(scenario.max_in_flight)
            self._generator = Generator(
                setup["run_id"],
                scenario,
                Place(setup["worker"], setup["num_workers"]),
                {arm.name: access_of(arm, scenario) for arm in scenario.arms},
                self._crew,
                self._leave,
            )
        except DpaceError as error:
            self._send(protocol.PREPARED, {"error": str(error)})
            return
        prompts = content_hash(self._generator.conversations)
        self._send(protocol.PREPARED, {"prompts_sha256": prompts})

    def _run_cell(self, order: dict[str, Any], received: float) -> None:
        assert self._generator is not None  # the coordinator waits for it  # noqa: S101
        assert self._scenario is not None  # noqa: S101 - as above
        number = order["number"]
        zero = received - order["elapsed_seconds"]
        cpu_before = time.process_time()
        try:
            self._generator.run(
                cells(self._scenario)[number], zero=zero, start=received + order["lead_seconds"]
            )
        except DpaceError as error:
            self._send(protocol.DONE, {"error": str(error)})
            return
        except Exception as error:
            # Whatever it was, the master would wait for this worker for ever.
            logger.exception("a request failed in the generator itself")
            self._send(protocol.DONE, {"error": f"fault of the generator: {error!r}"})
            raise
        self._flush()
        cpu_share = (time.process_time() - cpu_before) / (time.perf_counter() - received)
        self._send(protocol.DONE, {"number": number, "cpu_share": cpu_share})

    def _leave(self, row: RequestRow) -> None:
        self._waiting.append(row_to_dict(row))
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
            clients = runner.clients
            for worker in coordinator.workers:
                if worker not in clients or clients[worker].state == "missing":
                    coordinator.fail(f"worker {worker} is gone. Start it and run again.")
                    return

    def _end(self, result: RunFacts | str) -> None:
        code = 0
        reason = result if isinstance(result, str) else saturation(result, self._max_send_lag_ms)
        if reason is not None:
            code = EXIT_MISTAKE if isinstance(result, str) else EXIT_BAD_RESULT
        if self._options.facts:
            _write_result(Path(self._options.facts), result)  # and who asked for it says it
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


def _write_result(path: Path, result: RunFacts | str) -> None:
    if isinstance(result, str):
        write_failure(path, result)
    else:
        write_facts(path, result)


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
    ours.add_argument("--facts", help="JSON file for the facts of the run", metavar="FILE")


def _set_up(environment: Any, runner: Any, **_: object) -> None:  # noqa: ANN401 - locust has no types
    if environment.parsed_options.skip_log_setup:
        # Locust's first message has set logging up, and with another format.
        logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("dpace_loadtest").setLevel(logging.INFO)
    if isinstance(runner, LocalRunner | MasterRunner):
        _check_scenario(environment)
        master = MasterSide(environment)
        environment.events.test_start.add_listener(master.on_start)
        environment.events.test_stop.add_listener(master.on_stop)
        for kind in (protocol.READY, protocol.PREPARED, protocol.ROWS, protocol.DONE):
            runner.register_message(kind, master.on_message)
    if isinstance(runner, LocalRunner | WorkerRunner):
        worker = WorkerSide(environment)
        environment.events.test_start.add_listener(worker.on_start)
        environment.events.test_stop.add_listener(worker.on_stop)
        runner.register_message(protocol.SETUP, worker.on_setup)
        runner.register_message(protocol.CELL, worker.on_cell)


def _check_scenario(environment: Any) -> None:  # noqa: ANN401 - locust has no types
    try:
        scenario_of(environment)
    except DpaceError as error:
        logger.error("%s", error)  # noqa: TRY400 - a mistake of the user is one line
        raise SystemExit(EXIT_MISTAKE) from None


events.init_command_line_parser.add_listener(_add_options)
events.init.add_listener(_set_up)
