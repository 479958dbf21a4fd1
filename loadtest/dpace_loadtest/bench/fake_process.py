"""The fake server in a process of its own, with what its answers really took."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dpace_loadtest.bench.fake_server import HOST

START_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class FakeProcess:
    """A running fake server."""

    port: int

    @property
    def url(self) -> str:
        """Its root."""
        return f"http://{HOST}:{self.port}"

    def log(self) -> dict[str, Any]:
        """`num_requests` so far, and `first_delays_seconds` by request id."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=START_TIMEOUT_SECONDS)
        try:
            connection.request("GET", "/log")
            told: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return told


@contextlib.contextmanager
def fake_server(*options: str, cores: Sequence[int] = ()) -> Iterator[FakeProcess]:
    """Run a fake server.

    Args:
        *options: Of its command line, beside the port.
        cores: CPU cores that it may use; none is all.

    Raises:
        TimeoutError: If it does not start.
    """
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "dpace_loadtest.bench.fake_server", "--port", str(port)]
    process = subprocess.Popen([*command, *options])  # noqa: S603 - our own command line
    server = FakeProcess(port)
    try:
        _wait_until_it_answers(server, process)
        if cores:
            os.sched_setaffinity(process.pid, cores)
        yield server
    finally:
        process.kill()
        process.wait()


def _wait_until_it_answers(server: FakeProcess, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(ConnectionRefusedError):
            server.log()
            return
        time.sleep(0.05)
    raise TimeoutError(f"the fake server did not start within {START_TIMEOUT_SECONDS:g} s")
