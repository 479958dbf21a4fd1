"""Runs a scenario in locust, in a process of its own, and gives back what it left."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from dpace_loadtest.run_record import RunRecord, read_record
from dpace_loadtest.scenario import ScenarioConfig
from dpace_serve.errors import LoadTestError

HOST = "127.0.0.1"
STOP_SECONDS = 5.0
_LOCUSTFILE = Path(__file__).with_name("locustfile.py")
_LOCUST_VARIABLES = ("LOCUST_", "DPACE_SCENARIO")


def run(scenario: ScenarioConfig, rows: Path) -> RunRecord:
    """Run every cell of a scenario; progress goes to stderr.

    Locust runs beside this process and not in it, because it patches sockets and threads.

    Args:
        scenario: What is run.
        rows: File for a row per request.

    Raises:
        LoadTestError: If the run did not come to its end.
    """
    with tempfile.TemporaryDirectory(prefix="dpace-loadtest-") as folder:
        resolved = Path(folder) / "scenario.json"
        record = Path(folder) / "record.json"
        resolved.write_text(json.dumps(scenario.model_dump(mode="json")), encoding="utf-8")
        status = _run_locust(_command(scenario, resolved, rows, record))
        if not record.exists():
            raise LoadTestError(
                f"locust stopped with exit status {status} and left no result. "
                "Its own message stands above."
            )
        return read_record(record)


def _command(scenario: ScenarioConfig, resolved: Path, rows: Path, record: Path) -> list[str]:
    command = [
        *(sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE)),
        *("--headless", "--only-summary", "--skip-log-setup"),
        *("--scenario", str(resolved), "--rows", str(rows), "--record", str(record)),
    ]
    if scenario.workers > 1:
        # A port of its own, so that several load tests can run on one machine.
        port = str(_free_port())
        command += [
            *("--processes", str(scenario.workers), "--master-bind-host", HOST),
            *("--master-bind-port", port, "--master-port", port),
        ]
    return command


def _run_locust(command: list[str]) -> int:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_LOCUST_VARIABLES)  # they are options, and not ours
    }
    with _exit_on_terminate():
        return _wait_for(command, environment)


def _wait_for(command: list[str], environment: dict[str, str]) -> int:
    # In a group of its own, so that its workers end with it.
    process = subprocess.Popen(  # noqa: S603 - our own command line
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    try:
        return process.wait()
    finally:
        _end_group(process)


@contextlib.contextmanager
def _exit_on_terminate() -> Iterator[None]:
    """Leave through every `finally`; else locust would stay behind and go on asking the server."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears signals
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
        except ProcessLookupError:
            return  # nothing of it is left, which is what we want
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
