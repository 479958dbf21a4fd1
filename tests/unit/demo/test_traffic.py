import functools
import signal
import sys
from pathlib import Path

import pytest

from dpace_serve.demo.prompts import WARM_UP_PROMPTS
from dpace_serve.demo.server_process import free_port, running_server
from dpace_serve.demo.traffic import Traffic
from dpace_serve.errors import EngineError

FAKE_SERVER = Path(__file__).parent / "fake_server.py"


def ask(url):
    traffic = Traffic(url=url, model="target", max_new_tokens=4, timeout_seconds=20, concurrency=1)
    return traffic.ask_all(WARM_UP_PROMPTS, on_answer=lambda: None)


def test_a_stream_that_is_cut_off_is_one_line(tmp_path):
    port = free_port()
    command = [sys.executable, str(FAKE_SERVER), str(port), "none", "dying"]
    with running_server(
        command, name="none", port=port, log=tmp_path / "log", stop_timeout_seconds=5
    ) as server:
        server.wait_until_healthy(20)
        with pytest.raises(EngineError, match=r"request letters-001 to http://\S+ failed: [^\n]+$"):
            ask(server.url)


def test_ctrl_c_between_the_handler_and_the_count_of_interrupts_is_ctrl_c(monkeypatch):
    """CPython's asyncio.Runner.run sets the count to 0 after it has installed its handler."""
    install = signal.signal

    def install_and_interrupt(number, handler):
        previous = install(number, handler)
        if isinstance(handler, functools.partial):
            signal.raise_signal(number)
        return previous

    before = install(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(signal, "signal", install_and_interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            ask("http://127.0.0.1:9")
    finally:
        install(signal.SIGINT, before)
