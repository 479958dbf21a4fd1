"""One request and its streamed answer over a socket, and how it ended."""

import http.client
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from dpace_loadtest.connections import ConnectionPool
from dpace_loadtest.rows import Outcome
from dpace_loadtest.stream import EventReader, StreamedAnswer
from dpace_serve.outside_text import parse_json

RECEIVE_BYTES = 65_536
ERROR_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one request came to; moments are readings of the clock in seconds.

    Attributes:
        sent: When it was sent, connecting included.
        ended: When the answer, or the attempt, ended.
        outcome: How.
        status: HTTP status; that of an error event where one came inside the stream.
        error: The reason in one line; none if it is ok.
        answer: What came of the stream.
    """

    sent: float
    ended: float
    outcome: Outcome
    status: int | None
    error: str | None
    answer: StreamedAnswer


class _FailedError(Exception):
    def __init__(self, outcome: Outcome, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.outcome: Outcome = outcome
        self.status = status


def exchange(
    pool: ConnectionPool,
    path: str,
    body: bytes,
    headers: dict[str, str],
    *,
    timeout_seconds: float,
    now: Callable[[], float] = time.perf_counter,
) -> Exchange:
    """Send a request and read its stream as it arrives; never raises what a server can cause.

    Args:
        pool: Connections to the server.
        path: Path of the API below the server's root.
        body: JSON body, which asks for a stream.
        headers: Headers beside those of the body.
        timeout_seconds: From the sending to the end of the answer.
        now: Clock in seconds.
    """
    answer = StreamedAnswer()
    sent = now()
    status: int | None = None
    try:
        status = _ask(pool, path, body, headers, answer, deadline=sent + timeout_seconds, now=now)
        _require_whole(answer, status)
    except _FailedError as failure:
        return Exchange(
            sent, now(), failure.outcome, failure.status, _one_line(str(failure)), answer
        )
    return Exchange(sent, now(), "ok", status, None, answer)


def _ask(
    pool: ConnectionPool,
    path: str,
    body: bytes,
    headers: dict[str, str],
    answer: StreamedAnswer,
    *,
    deadline: float,
    now: Callable[[], float],
) -> int:
    status: int | None = None
    timeout_seconds = deadline - now()
    try:
        connection = pool.take(timeout_seconds)
    except TimeoutError:
        raise _FailedError("timeout", "no connection in time") from None
    except OSError as error:
        raise _FailedError("unreachable", f"no connection: {error}") from None
    is_reusable = False
    # http.client forgets the socket as soon as a server says that it will close it.
    sock = connection.sock
    try:
        sock.settimeout(max(deadline - now(), 1e-3))
        connection.request("POST", pool.root_path + path, body, headers)
        response = connection.getresponse()
        status = response.status
        if status >= 400:
            raise _FailedError(_of_status(status), _reason_of(response), status)
        _read_stream(sock, response, answer, deadline=deadline, now=now)
        is_reusable = response.isclosed()
    except TimeoutError:
        raise _FailedError("timeout", f"not ended in {timeout_seconds:g} s", status) from None
    except (OSError, http.client.HTTPException) as error:
        raise _FailedError("cut", f"connection lost: {error!r}", status) from None
    except ValueError as error:
        raise _FailedError("cut", f"not a stream of JSON events: {error}", status) from None
    finally:
        # A connection with an answer half read would give it to the next request.
        if is_reusable:
            pool.give_back(connection)
        else:
            connection.close()
    return status


def _read_stream(
    sock: socket.socket,
    response: http.client.HTTPResponse,
    answer: StreamedAnswer,
    *,
    deadline: float,
    now: Callable[[], float],
) -> None:
    events = EventReader()
    # read1 gives what has arrived; read would wait for as many bytes as it is asked for.
    while received := response.read1(RECEIVE_BYTES):
        moment = now()
        for data in events.feed(received):
            answer.take(data, moment)
        if moment >= deadline:
            raise TimeoutError
        sock.settimeout(deadline - moment)
    for data in events.close():
        answer.take(data, now())


def _require_whole(answer: StreamedAnswer, status: int) -> None:
    if answer.error is not None:
        if answer.error_status is None:
            raise _FailedError("cut", f"error inside the stream: {answer.error}", status)
        raise _FailedError(_of_status(answer.error_status), answer.error, answer.error_status)
    if not answer.is_complete:
        raise _FailedError("cut", "the stream ended before its last event", status)


def _of_status(status: int) -> Outcome:
    return "refused" if status == 429 else "http_error"


def _reason_of(response: http.client.HTTPResponse) -> str:
    said = response.read(RECEIVE_BYTES).decode("utf-8", "replace")
    try:
        body = parse_json(said)
    except ValueError:
        return said or response.reason
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error) if isinstance(error, dict) else error)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:ERROR_CHARACTERS]
