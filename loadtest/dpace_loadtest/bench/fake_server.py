"""A server that streams answers on a known schedule: `python -m dpace_loadtest.bench.fake_server`.

The prompt of each request is a JSON object, the `Script` of its answer; as its tokens the messages
of the chat are counted. After how long each answer
really began is told under /log, so that a busy server is not taken for a slow reader.
"""

import argparse
import asyncio
import json
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any

HOST = "127.0.0.1"
MODEL = "fake"


@dataclass(frozen=True, slots=True)
class Script:
    """How a request is answered.

    Attributes:
        first_ms: From the request to the first chunk, in ms.
        gap_ms: Between chunks, in ms.
        num_chunks: Chunks with text.
        tokens_per_chunk: Tokens that each is counted as.
        head_ms: From the request to the status line, in ms.
        status: HTTP status; from 400 there is no stream.
        cut_after: Chunks after which the connection ends; none lets the stream end well.
        is_reset: Whether a cut connection is reset rather than closed.
        error_after: Chunks after which an error event comes and the stream ends; none without.
    """

    first_ms: float = 0.0
    gap_ms: float = 0.0
    num_chunks: int = 1
    tokens_per_chunk: int = 1
    head_ms: float = 0.0
    status: int = 200
    cut_after: int | None = None
    is_reset: bool = False
    error_after: int | None = None


@dataclass(frozen=True, slots=True)
class Stall:
    """A time in which the server does nothing, as one that collects garbage or compiles.

    Attributes:
        begin: Reading of the clock in seconds.
        seconds: How long.
    """

    begin: float
    seconds: float

    def moment(self, received: float, delay_seconds: float) -> float:
        """When work is done that takes some time from when its request was received."""
        end = self.begin + self.seconds
        start = end if self.begin <= received < end else received
        done = start + delay_seconds
        return done + self.seconds if start < self.begin <= done else done


class Service:
    """What all connections share.

    Args:
        stall_after_seconds: From the first request to the stall; none never stalls.
        stall_seconds: How long the stall is.
    """

    def __init__(self, stall_after_seconds: float | None, stall_seconds: float) -> None:
        self.loop = asyncio.get_running_loop()
        self._stall_after_seconds = stall_after_seconds
        self._stall_seconds = stall_seconds
        self._stall: Stall | None = None
        self.first_delays: dict[str, float] = {}
        self.num_requests = 0

    def moment(self, received: float, delay_seconds: float) -> float:
        """When work is done that takes some time from when its request was received."""
        if self._stall_after_seconds is None:
            return received + delay_seconds
        if self._stall is None:
            self._stall = Stall(received + self._stall_after_seconds, self._stall_seconds)
        return self._stall.moment(received, delay_seconds)


class Connection(asyncio.Protocol):
    """One connection, which answers one request after the other."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio calls it."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream has no other
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """As asyncio calls it."""
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        method_and_path, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        self._received = rest[length:]
        method, path, _ = method_and_path.split(" ")
        if method == "GET":
            told = self._told(path)
            self._write(_whole(404, {"error": path}) if told is None else _whole(200, told))
        else:
            _Answer(self._service, self._write, self._end, headers, json.loads(rest[:length]))

    def _told(self, path: str) -> dict[str, Any] | None:
        if path == "/log":
            return {
                "num_requests": self._service.num_requests,
                "first_delays_seconds": self._service.first_delays,
            }
        return {"data": [{"id": MODEL}]} if path == "/v1/models" else None

    def _write(self, data: bytes) -> None:
        assert self._transport is not None  # noqa: S101 - it was made before data came
        if not self._transport.is_closing():
            self._transport.write(data)

    def _end(self, *, is_reset: bool) -> None:
        assert self._transport is not None  # noqa: S101 - as above
        if is_reset:
            _reset(self._transport)
        else:
            self._transport.close()


class _Answer:
    """One answer on its way."""

    def __init__(
        self,
        service: Service,
        write: Any,  # noqa: ANN401 - a bound method
        end: Any,  # noqa: ANN401 - a bound method
        headers: dict[str, str],
        body: dict[str, Any],
    ) -> None:
        self._service = service
        self._write = write
        self._end = end
        self._received = time.perf_counter()
        self._id = headers.get("x-request-id", "unnamed")
        self._is_chat = "messages" in body
        self._num_messages = len(body.get("messages", ()))
        prompt = body["messages"][-1]["content"] if self._is_chat else body["prompt"]
        if isinstance(prompt, list):  # parts, as `vllm bench serve` sends them
            prompt = "".join(part["text"] for part in prompt)
        self._script = Script(**json.loads(prompt))
        self._num_written = 0
        service.num_requests += 1
        self._at(self._script.head_ms, self._begin)

    def _at(self, delay_ms: float, do: Any) -> None:  # noqa: ANN401 - a bound method
        moment = self._service.moment(self._received, delay_ms / 1e3)
        # asyncio's clock has another zero.
        loop = self._service.loop
        loop.call_at(loop.time() + moment - time.perf_counter(), do)

    def _begin(self) -> None:
        script = self._script
        if script.status >= 400:
            self._write(_whole(script.status, {"error": {"message": "as the script says"}}))
            return
        self._write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        self._at(script.first_ms, self._go_on)

    def _go_on(self) -> None:
        script = self._script
        if self._num_written == script.cut_after:
            self._end(is_reset=script.is_reset)
            return
        if self._num_written == script.error_after:
            error = {"error": {"message": "as the script says", "code": 500}}
            self._write(_event(json.dumps(error)) + _event("[DONE]") + b"0\r\n\r\n")
            return
        if self._num_written == 0:
            self._service.first_delays[self._id] = time.perf_counter() - self._received
        self._num_written += 1
        self._write(self._chunk("x"))
        if self._num_written < script.num_chunks:
            self._at(script.first_ms + self._num_written * script.gap_ms, self._go_on)
            return
        self._write(self._chunk(None) + _event("[DONE]") + b"0\r\n\r\n")

    def _chunk(self, text: str | None) -> bytes:
        chunk: dict[str, Any] = {"id": f"fake-{self._id}", "model": MODEL}
        if text is None:
            num_tokens = self._script.num_chunks * self._script.tokens_per_chunk
            chunk["choices"] = []
            chunk["usage"] = {
                "prompt_tokens": self._num_messages,
                "completion_tokens": num_tokens,
            }
        elif self._is_chat:
            chunk["choices"] = [{"index": 0, "delta": {"content": text}}]
        else:
            chunk["choices"] = [{"index": 0, "text": text}]
        return _event(json.dumps(chunk))


def _event(data: str) -> bytes:
    event = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(event), event)


def _whole(status: int, values: dict[str, Any]) -> bytes:
    body = json.dumps(values).encode()
    head = f"HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _reset(transport: asyncio.Transport) -> None:
    # A linger of 0 s makes the kernel send a reset.
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def _serve(port: int, stall_after_seconds: float | None, stall_seconds: float) -> None:
    service = Service(stall_after_seconds, stall_seconds)
    server = await service.loop.create_server(lambda: Connection(service), HOST, port, backlog=4096)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--stall-after", type=float, help="s from the first request to a stall")
    parser.add_argument("--stall-seconds", type=float, default=4.0)
    given = parser.parse_args()
    asyncio.run(_serve(given.port, given.stall_after, given.stall_seconds))


if __name__ == "__main__":
    main()
