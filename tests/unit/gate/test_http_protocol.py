"""Heads of requests over real connections: without an end they are cut off, whatever the client."""

import asyncio
import contextlib
import socket

import pytest
import uvicorn

from dpace_serve.gate.bounded_httptools import BoundedHttpTools
from dpace_serve.gate.http_protocol import MAX_HEAD_BYTES, http_protocol, use_everywhere

FLOOD = 1_000_000


@contextlib.asynccontextmanager
async def listening(protocol):
    """A server that gives back how much of a body came; its address."""

    async def app(scope, receive, send):
        number, more = 0, True
        while more:
            message = await receive()
            number += len(message.get("body", b""))
            more = message.get("more_body", False)
        headers = [(b"content-length", b"%d" % len(b"%d" % number))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"%d" % number})

    config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:  # noqa: ASYNC110  (it has no event for it)
            await asyncio.sleep(0.01)
        yield listener.getsockname()
        server.should_exit = True
        await serving


async def answer(address, *parts):
    """What comes back until the connection ends or an answer is whole, and how much was sent."""
    reader, writer = await asyncio.open_connection(*address)
    sent = 0
    with contextlib.suppress(ConnectionError):
        for part in parts:
            writer.write(part)
            await writer.drain()
            sent += len(part)
            await asyncio.sleep(0)
    got = b""
    with contextlib.suppress(ConnectionError):
        got = await asyncio.wait_for(reader.read(65536), 10)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return got, sent


@pytest.fixture(params=["ours", "h11"])
def protocol(request):
    return http_protocol() if request.param == "ours" else "h11"


START = b"GET / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (START, b"a: " + b"b" * 995 + b"\r\n"),
        (START + b"a: ", b"b" * 1000),
        (START, b"b" * 1000),
        (b"GET /", b"b" * 1000),
        (CHUNKED, b"a: " + b"b" * 995 + b"\r\n"),
        (CHUNKED + b"a: ", b"b" * 1000),
    ],
)  # fmt: skip
async def test_a_head_without_an_end_is_cut_off(protocol, start, more):
    async with listening(protocol) as address:
        got, sent = await answer(address, start, *[more] * (FLOOD // len(more)))
        assert b" 200 " not in got
        assert sent < FLOOD or b" 400 " in got
        got, _ = await answer(address, START + b"\r\n")  # and others are served
        assert got.endswith(b"\r\n\r\n0")


async def test_a_head_within_the_bound_is_read():
    lines = b"".join(b"h%d: %s\r\n" % (number, b"x" * 500) for number in range(100))
    assert 50_000 < len(lines) < MAX_HEAD_BYTES
    async with listening(http_protocol()) as address:
        got, _ = await answer(address, START, lines, b"\r\n")
        assert got.startswith(b"HTTP/1.1 200 ")


async def test_bodies_and_further_requests_do_not_count_as_heads(protocol):
    size = 3 * MAX_HEAD_BYTES
    async with listening(protocol) as address:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
        got, _ = await answer(address, head, *[b"x" * 1000] * (size // 1000), b"x" * (size % 1000))
        assert got.endswith(b"\r\n\r\n%d" % size)
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(5):  # together more than one head may have
            writer.write(START + b"a: " + b"x" * 30_000 + b"\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n0")).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await writer.wait_closed()


def test_a_server_that_is_not_told_takes_it_too(monkeypatch):
    monkeypatch.setattr(uvicorn.config, "HTTP_PROTOCOLS", dict(uvicorn.config.HTTP_PROTOCOLS))
    use_everywhere()
    config = uvicorn.Config("x:y", log_config=None)
    config.load_app = lambda: lambda *_: None
    config.load()
    assert config.http_protocol_class is BoundedHttpTools
