"""One request over a real socket, against a server that sends the bytes it is given."""

import contextlib
import json
import socket
import threading
import time

import pytest

from dpace_loadtest.connections import ConnectionPool
from dpace_loadtest.exchange import exchange

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(values):
    return b"data: " + json.dumps(values).encode() + b"\n\n"


TEXT = event({"id": "r-1", "choices": [{"delta": {"content": "a"}}]})
USAGE = event({"id": "r-1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
DONE = b"data: [DONE]\n\n"
WHOLE = HEAD + chunk(TEXT) + chunk(TEXT) + chunk(USAGE + DONE) + b"0\r\n\r\n"


class ByteServer:
    """Answers each request with the next of its answers: bytes, and pauses in seconds."""

    def __init__(self, *answers, closes=False):
        self._answers = list(answers)
        self._closes = closes
        self.num_connections = 0
        self.requests = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.pool = ConnectionPool(f"http://127.0.0.1:{self._listener.getsockname()[1]}")
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.pool.close()
        # Wakes a server that still waits for a connection.
        with contextlib.suppress(OSError):
            socket.create_connection(self._listener.getsockname()).close()
        self._thread.join(10)
        self._listener.close()

    def _serve(self):
        while self._answers:
            connection, _ = self._listener.accept()
            self.num_connections += 1
            with connection, contextlib.suppress(OSError):
                while self._answers and self._read(connection):
                    for part in self._answers.pop(0):
                        if isinstance(part, bytes):
                            connection.sendall(part)
                        else:
                            time.sleep(part)
                    if self._closes:
                        break

    def _read(self, connection):
        received = b""
        while b"\r\n\r\n" not in received:
            data = connection.recv(65536)
            if not data:
                return False
            received += data
        head, _, body = received.partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        )
        while len(body) < length:
            body += connection.recv(65536)
        self.requests.append((head.decode(), json.loads(body)))
        return True

    def ask(self, timeout_seconds=5.0):
        headers = {"X-Request-Id": "mine"}
        return exchange(self.pool, "/v1/x", b'{"a": 1}', headers, timeout_seconds=timeout_seconds)


def test_a_whole_stream_is_ok_with_the_servers_name_and_counts():
    with ByteServer([WHOLE]) as server:
        done = server.ask()
        ((head, body),) = server.requests
    assert (done.outcome, done.status, done.error) == ("ok", 200, None)
    assert (done.answer.response_id, done.answer.text) == ("r-1", "aa")
    assert (done.answer.prompt_tokens, done.answer.completion_tokens) == (3, 2)
    assert head.startswith("POST /v1/x HTTP/1.1")
    assert "X-Request-Id: mine" in head
    assert body == {"a": 1}


def test_each_chunk_is_timed_when_it_comes_and_not_when_a_buffer_is_full():
    answer = [HEAD, chunk(TEXT), 0.3, chunk(TEXT), 0.3, chunk(USAGE + DONE), b"0\r\n\r\n"]
    with ByteServer(answer) as server:
        done = server.ask()
    first, second = done.answer.text_moments
    assert first - done.sent < 0.25
    assert second - first == pytest.approx(0.3, abs=0.1)
    assert done.ended - second == pytest.approx(0.3, abs=0.1)


def test_a_connection_is_used_again_after_a_whole_answer():
    with ByteServer([WHOLE], [WHOLE]) as server:
        assert [server.ask().outcome for _ in range(2)] == ["ok", "ok"]
    assert server.num_connections == 1


def test_a_connection_that_the_server_closed_meanwhile_costs_no_request():
    with ByteServer([WHOLE], [WHOLE], closes=True) as server:
        assert server.ask().outcome == "ok"
        time.sleep(0.2)
        assert server.ask().outcome == "ok"
    assert server.num_connections == 2


def test_a_half_read_answer_is_never_taken_for_the_next_ones():
    with ByteServer([HEAD, chunk(TEXT), 0.6, chunk(DONE)], [WHOLE]) as server:
        assert server.ask(timeout_seconds=0.3).outcome == "timeout"
        assert server.ask().answer.text == "aa"
    assert server.num_connections == 2


def test_a_stream_until_the_connection_closes_is_read_to_its_end():
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    with ByteServer([head, TEXT, 0.05, USAGE + DONE], closes=True) as server:
        assert server.ask().outcome == "ok"


def test_chunks_that_each_come_in_time_do_not_move_the_deadline():
    with ByteServer([HEAD, *[chunk(TEXT), 0.2] * 20]) as server:
        done = server.ask(timeout_seconds=1.0)
    assert done.outcome == "timeout"
    assert 1.0 <= done.ended - done.sent < 1.6
    assert len(done.answer.texts) >= 3


@pytest.mark.parametrize(
    ("answer", "outcome", "status", "reason"),
    [
        ([HEAD, chunk(TEXT)], "cut", 200, "connection lost"),
        ([HEAD, chunk(TEXT)[:-8]], "cut", 200, "connection lost"),
        ([HEAD, chunk(TEXT), b"0\r\n\r\n"], "cut", 200, "before its last event"),
        ([HEAD, chunk(b"data: {\n\n")], "cut", 200, "not a stream of JSON events"),
        ([b""], "cut", None, "connection lost"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"], "cut", 200, "before its last event"),
        ([b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"], "http_error", 503, "Busy"),
        (
            [b'HTTP/1.1 400 Bad\r\nContent-Length: 33\r\n\r\n{"error": {"message": "too long"}}'],
            "http_error",
            400,
            "too long",
        ),
        ([b"HTTP/1.1 429 Slow\r\nContent-Length: 2\r\n\r\n[]"], "refused", 429, "[]"),
        (
            [HEAD, chunk(event({"error": {"message": "dead", "code": 500}}) + DONE), b"0\r\n\r\n"],
            "http_error",
            500,
            "dead",
        ),
        (
            [HEAD, chunk(event({"error": "dead"}) + DONE), b"0\r\n\r\n"],
            "cut",
            200,
            "error inside the stream: dead",
        ),
    ],
)
def test_what_goes_wrong_has_a_name_a_status_and_a_reason(answer, outcome, status, reason):
    with ByteServer(answer, closes=True) as server:
        done = server.ask()
    assert (done.outcome, done.status) == (outcome, status)
    assert reason in done.error


def test_no_server_is_unreachable():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = exchange(ConnectionPool(f"http://127.0.0.1:{port}"), "/", b"", {}, timeout_seconds=1)
    assert (done.outcome, done.status) == ("unreachable", None)
