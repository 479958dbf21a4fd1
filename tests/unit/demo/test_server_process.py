import os
import socket
import sys
import time
from pathlib import Path

import pytest

from dpace_serve.demo import server_process
from dpace_serve.demo.server_process import free_port, require_free_port, running_server
from dpace_serve.errors import EngineError

FAKE_SERVER = Path(__file__).parent / "fake_server.py"


def start(tmp_path, behaviour, *, port=None, stop_timeout_seconds=5.0):
    port = port or free_port()
    return running_server(
        [sys.executable, str(FAKE_SERVER), str(port), "none", behaviour],
        name="none",
        port=port,
        log=tmp_path / "server.log",
        stop_timeout_seconds=stop_timeout_seconds,
    )


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A killed orphan stays a zombie where nobody reaps it; it runs no more.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pid):
    deadline = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)


def worker_pid(log):
    return int(log.read_text().splitlines()[0].removeprefix("worker "))


def test_a_server_answers_inside_the_block_and_is_gone_after_it(tmp_path):
    with start(tmp_path, "good") as server:
        server.wait_until_healthy(20)
        assert is_alive(server.process.pid)
    assert wait_until_gone(server.process.pid)
    require_free_port(int(server.url.rpartition(":")[2]))


def test_a_server_is_stopped_when_the_block_fails(tmp_path):
    with pytest.raises(RuntimeError), start(tmp_path, "with-worker") as server:  # noqa: PT012
        server.wait_until_healthy(20)
        raise RuntimeError
    assert wait_until_gone(server.process.pid)
    assert wait_until_gone(worker_pid(server.log))


def test_a_server_that_ignores_the_signal_is_killed_with_its_workers(tmp_path):
    with start(tmp_path, "stubborn", stop_timeout_seconds=0.3) as server:
        server.wait_until_healthy(20)
    assert server.process.returncode == -9
    assert wait_until_gone(worker_pid(server.log))


def test_after_an_error_nobody_waits_for_a_slow_end(tmp_path, monkeypatch):
    monkeypatch.setattr(server_process, "HURRIED_STOP_SECONDS", 0.2)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), start(tmp_path, "stubborn", stop_timeout_seconds=60):
        raise KeyboardInterrupt
    assert time.monotonic() - started < 30


def test_a_crash_is_reported_with_the_end_of_the_log(tmp_path):
    with start(tmp_path, "crashes") as server, pytest.raises(EngineError) as caught:
        server.wait_until_healthy(20)
    assert "exit status 1" in str(caught.value)
    assert str(caught.value).endswith("\n  last line of a long story")


def test_a_servers_own_one_line_reason_is_the_whole_message(tmp_path):
    with start(tmp_path, "refuses-to-start") as server, pytest.raises(EngineError) as caught:
        server.wait_until_healthy(20)
    assert str(caught.value) == (
        "the none server did not start: the drafter does not fit. Take another."
    )


def test_a_server_that_never_gets_healthy_is_given_up(tmp_path):
    with start(tmp_path, "unhealthy") as server:
        while not server.log.read_text():  # it has a line once it listens
            time.sleep(0.02)
        with pytest.raises(EngineError, match=r"not answer within 0.5 s.*\n.*serving as"):
            server.wait_until_healthy(0.5)
    assert wait_until_gone(server.process.pid)


def test_an_occupied_port_is_refused_before_anything_starts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with (
            pytest.raises(EngineError, match=f"port {port} on 127.0.0.1 must be free"),
            start(tmp_path, "good", port=port),
        ):
            pass
    assert not (tmp_path / "server.log").exists()


def test_a_missing_program_is_an_engine_error(tmp_path):
    server = running_server(
        ["/no/such/program"],
        name="none",
        port=free_port(),
        log=tmp_path / "server.log",
        stop_timeout_seconds=1,
    )
    with pytest.raises(EngineError, match="could not be started"), server:
        pass
