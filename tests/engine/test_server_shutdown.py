"""Answers that end because they must: SIGTERM and the deadline, with live streams.

Runs after all other server tests, because it ends the server they share.
"""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time

import httpx2
import psutil
import pytest

from dpace_serve.demo import bundle

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

COMPLETIONS = "/v1/completions"
LONG_ANSWER = 300
LONGEST_ANSWER = 480
NUM_STREAMS = 5
STOP_SECONDS = 40
"""Far above what the server gives answers, engine and connections, for a busy machine."""


def body(**more):
    return {"model": "tiny", "prompt": "The", "ignore_eos": True, "temperature": 1, **more}


def test_sigterm_lets_running_streams_finish_and_takes_no_new_requests(served):
    asked = body(max_tokens=LONG_ANSWER, stream=True, stream_options={"include_usage": True})
    lines, during = [], {}
    with served.client.stream("POST", COMPLETIONS, json=asked) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                lines.append(line.removeprefix("data: "))
            if len(lines) == 3:
                os.kill(served.process.pid, signal.SIGTERM)
            if len(lines) == 6:
                os.kill(served.process.pid, signal.SIGTERM)  # a second one changes nothing
            if len(lines) == 9:
                during = {
                    path: served.client.request(method, path, json=asked)
                    for method, path in [
                        ("POST", COMPLETIONS),
                        ("GET", "/health"),
                        ("GET", "/v1/models"),
                        ("GET", "/metrics"),
                        ("GET", "/dpace/acceptance"),
                    ]
                }
    assert len(lines) > 20  # most of the answer came after the signal
    assert lines[-1] == "[DONE]"
    assert json.loads(lines[-2])["usage"]["completion_tokens"] == LONG_ANSWER
    assert [response.status_code for response in during.values()] == [503, 503, 503, 200, 200]
    refusal = during[COMPLETIONS]
    assert refusal.json()["error"]["type"] == "ServiceUnavailableError"
    assert refusal.headers["Retry-After"] == "1"
    assert refusal.headers["Connection"] == "close"
    assert "vllm:num_requests_running" in during["/metrics"].text
    assert served.process.wait(timeout=STOP_SECONDS) == 0
    with pytest.raises(httpx2.ConnectError):
        served.client.get("/health")


def stream(served, begun, request_id):
    """All bytes of a stream; says when the first of them came."""
    headers = {"X-Request-Id": request_id}
    asked = body(max_tokens=LONGEST_ANSWER, stream=True)
    with served.client.stream("POST", COMPLETIONS, json=asked, headers=headers) as response:
        assert response.status_code == 200
        pieces = response.iter_raw()
        got = next(pieces)
        begun.release()
        return b"".join([got, *pieces]).decode()


def whole(served, request_id):
    headers = {"X-Request-Id": request_id}
    return served.client.post(COMPLETIONS, json=body(max_tokens=LONGEST_ANSWER), headers=headers)


def error_of(events):
    """The one error of a stream, its last event but [DONE]; all others are chunks."""
    *chunks, error, done, nothing = events.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    parsed = [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]
    assert parsed
    assert all(chunk["object"] == "text_completion" for chunk in parsed)
    return json.loads(error.removeprefix("data: "))["error"]


@contextlib.contextmanager
def client_that_reads_nothing(served):
    """Has asked for more than the sockets hold, and does not take it."""
    asked = json.dumps(body(prompt=[[5] * 400] * 16, max_tokens=1, echo=True, logprobs=20)).encode()
    url = served.client.base_url
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((url.host, url.port))
        reader.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Authorization: %s\r\nContent-Length: %d\r\n\r\n"
            % (served.client.headers["Authorization"].encode(), len(asked))
            + asked
        )
        assert reader.recv(12) == b"HTTP/1.1 200"
        yield


def wait_until_running(served, count):
    deadline = time.monotonic() + 60
    while True:
        slots = served.client.get("/dpace/drafters").json()["drafters"]
        if sum(slot["running"] for slot in slots) == count:
            return
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_at_the_time_limit_all_answers_end_with_an_error_and_the_server_ends(open_server, tmp_path):
    log = tmp_path / "log.jsonl"
    settings = ("shutdown_timeout_seconds=1", f"acceptance_log.path={log}")
    options = [word for setting in settings for word in ("--set", setting)]
    with (
        open_server(*options) as served,
        client_that_reads_nothing(served),
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        begun = threading.Semaphore(0)
        streams = [pool.submit(stream, served, begun, f"s{i}") for i in range(NUM_STREAMS)]
        answer = pool.submit(whole, served, "w")
        for _ in range(NUM_STREAMS):
            assert begun.acquire(timeout=60)
        wait_until_running(served, NUM_STREAMS + 1)  # the signal must not overtake the last one
        os.kill(served.process.pid, signal.SIGTERM)
        errors = [error_of(future.result(timeout=STOP_SECONDS)) for future in streams]
        response = answer.result(timeout=STOP_SECONDS)
        assert served.process.wait(timeout=STOP_SECONDS) == 0
    assert {error["code"] for error in errors} == {503}
    assert {error["type"] for error in errors} == {"ServiceUnavailableError"}
    assert response.status_code == 503
    assert response.json()["error"] == errors[0]
    assert response.headers["Retry-After"] == "1"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    ended = sorted((row["request_id"], row["excluded"]) for row in rows if row["excluded"])
    named = [f"cmpl-s{i}-0" for i in range(NUM_STREAMS)] + ["cmpl-w-0"]
    assert [row for row in ended if row[0] in named] == [(name, "aborted") for name in named]


def test_at_its_deadline_an_answer_ends_and_the_engine_is_free(open_server):
    with (
        open_server("--set", "limits.request_deadline_seconds=2") as served,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        served.ask(COMPLETIONS, prompt="The", max_tokens=4)  # a first step takes longest
        begun = threading.Semaphore(0)
        streams = [pool.submit(stream, served, begun, f"s{i}") for i in range(NUM_STREAMS)]
        answer = pool.submit(whole, served, "w")
        errors = [error_of(future.result(timeout=60)) for future in streams]
        response = answer.result(timeout=60)
        assert {error["code"] for error in errors} == {504}
        assert response.status_code == 504
        assert response.json()["error"] == errors[0]
        (running,) = served.samples()["vllm:num_requests_running"]
        for _ in range(100):
            if running.value == 0:
                break
            served.client.get("/health")
            (running,) = served.samples()["vllm:num_requests_running"]
        assert running.value == 0
        assert served.ask(COMPLETIONS, prompt="The", max_tokens=4)["choices"]


def wait_for_engine_process(server):
    """Until the server has started its engine, and waits for it to come up."""
    for _ in range(600):
        titles = [child.name() for child in psutil.Process(server.pid).children()]
        if any("EngineCore" in title for title in titles):
            return
        assert server.poll() is None
        time.sleep(0.1)
    raise AssertionError("no engine process within 60 s")


@pytest.mark.parametrize(
    ("number", "wait"),
    [
        (signal.SIGTERM, lambda server: time.sleep(4)),  # while it imports
        (signal.SIGTERM, wait_for_engine_process),
        (signal.SIGINT, wait_for_engine_process),
    ],
)
def test_a_signal_before_the_server_is_ready_ends_it_too(serve_command, free_port, number, wait):
    command = serve_command([str(bundle.target_folder()), "--set", "eager=true"], free_port)
    process = subprocess.Popen(
        command.arguments,
        env=command.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait(process)
        process.send_signal(number)
        assert process.wait(timeout=STOP_SECONDS) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
