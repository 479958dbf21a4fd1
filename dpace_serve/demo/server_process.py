"""A server in a process of its own: started, waited for, and never left behind."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from dpace_serve.errors import EngineError

HOST = "127.0.0.1"
POLL_SECONDS = 0.2
LOG_LINES_SHOWN = 20
HURRIED_STOP_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A running server, the leader of a process group that holds its workers too."""

    name: str
    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def wait_until_healthy(self, timeout_seconds: float) -> None:
        """Return once the server answers on /health.

        Raises:
            EngineError: If it stops, or does not answer in time.
        """
        deadline = time.monotonic() + timeout_seconds
        with httpx2.Client(base_url=self.url, timeout=POLL_SECONDS * 10, trust_env=False) as client:
            while not _is_healthy(client):
                self.require_running()
                if time.monotonic() > deadline:
                    raise EngineError(
                        f"the {self.name} server did not answer within {timeout_seconds:g} s. "
                        "Its log ends:",
                        log_lines=self.log_end(),
                    )
                time.sleep(POLL_SECONDS)
        # Another program may have answered while ours was failing to get the port.
        self.require_running()

    def require_running(self) -> None:
        """Check that the server has not stopped by itself.

        Raises:
            EngineError: If it has; with its own one-line reason, or else the end of its log.
        """
        code = self.process.poll()
        if code is None:
            return
        reason = _own_reason(self._log_lines())
        if reason is not None:
            raise EngineError(f"the {self.name} server did not start: {reason}")
        raise EngineError(
            f"the {self.name} server stopped with exit status {code}. Its log ends:",
            log_lines=self.log_end(),
        )

    def wait(self) -> None:
        """Return when the server has stopped by itself."""
        self.process.wait()

    def stop(self, timeout_seconds: float) -> None:
        """Ask the server to stop, then kill what is left of its process group."""
        try:
            self.process.terminate()
            self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            pass  # killed below, as its workers are
        finally:
            _kill_group(self.process.pid)
            self.process.wait()

    def _log_lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()

    def log_end(self) -> list[str]:
        """The last lines that it printed."""
        return self._log_lines()[-LOG_LINES_SHOWN:]


@contextmanager
def running_server(
    command: Sequence[str], *, name: str, port: int, log: Path, stop_timeout_seconds: float
) -> Iterator[ServerProcess]:
    """Start a server and stop it on the way out, whatever happened inside.

    Args:
        command: Program and arguments.
        name: What messages call it.
        port: Port on this machine that the command listens on.
        log: File for everything that it prints.
        stop_timeout_seconds: How long it may take to stop before it is killed.

    Yields:
        The server, which need not answer yet.

    Raises:
        EngineError: If the port is taken or the program cannot be started.
    """
    require_free_port(port)
    with log.open("wb") as output:
        try:
            # Of its own group, so that Ctrl-C reaches it through us and only once.
            process = subprocess.Popen(  # noqa: S603  (our own command line)
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise EngineError(
                f"the {name} server could not be started: {error}. Check the installation."
            ) from None
    server = ServerProcess(name, process, f"http://{HOST}:{port}", log)
    try:
        yield server
    except BaseException:
        # Nobody waits for its answers any more, and a starting engine does not hear the signal.
        server.stop(min(stop_timeout_seconds, HURRIED_STOP_SECONDS))
        raise
    server.stop(stop_timeout_seconds)


def free_port() -> int:
    """A port on this machine that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


def require_free_port(port: int) -> None:
    """Check that a server could listen on a port.

    Raises:
        EngineError: If it could not.
    """
    with socket.socket() as listener:
        # Servers set this too: a port in TIME_WAIT after the last arm is free for them.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise EngineError(
                f"port {port} on {HOST} must be free, but: {error.strerror}. "
                "Choose another with --port, or leave it out."
            ) from None


def _is_healthy(client: httpx2.Client) -> bool:
    try:
        return client.get("/health").status_code == httpx2.codes.OK
    except httpx2.TransportError:
        return False


def _own_reason(lines: Sequence[str]) -> str | None:
    """The last line that the `dpace` command wrote for people, without its prefix."""
    prefix = "dpace: "
    reasons = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
    return reasons[-1] if reasons else None


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return  # nothing of it is left, which is what we want
