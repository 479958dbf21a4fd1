"""SIGTERM: running answers finish, then the server ends. Runs after all other server tests."""

import json
import os
import signal

import httpx2
import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

LONG_ANSWER = 300


def test_sigterm_lets_a_running_stream_finish(served):
    body = {
        "model": "tiny",
        "prompt": "The",
        "max_tokens": LONG_ANSWER,
        "ignore_eos": True,
        "stream": True,
        "temperature": 1,
        "stream_options": {"include_usage": True},
    }
    lines = []
    with served.client.stream("POST", "/v1/completions", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                lines.append(line.removeprefix("data: "))
            if len(lines) == 3:
                os.kill(served.process.pid, signal.SIGTERM)
    assert len(lines) > 10  # most of the answer came after the signal
    assert lines[-1] == "[DONE]"
    assert json.loads(lines[-2])["usage"]["completion_tokens"] == LONG_ANSWER
    assert served.process.wait(timeout=120) == 0
    with pytest.raises(httpx2.ConnectError):
        served.client.get("/health")
