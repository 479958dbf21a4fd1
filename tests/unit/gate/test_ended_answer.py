"""Answers that are ended from outside, behind a real server: what the client gets, who stops."""

import asyncio
import contextlib
import socket
from http import HTTPStatus

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from dpace_serve.gate import ended_answer
from dpace_serve.gate.ended_answer import EndableAnswer, Ending

ENDING = Ending(HTTPStatus.SERVICE_UNAVAILABLE, "too late", {"Retry-After": "1"})
ERROR_EVENT = (
    b'data: {"error":{"message":"too late","type":"ServiceUnavailableError",'
    b'"param":null,"code":503}}\n\ndata: [DONE]\n\n'
)
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream; charset=utf-8")],
}


class Endable:
    """An application whose newest answer can be ended."""

    def __init__(self, app):
        self._app = app
        self.answer = None
        self.num_returned = 0

    async def __call__(self, scope, receive, send):
        self.answer = EndableAnswer(self._app, scope, receive, send)
        try:
            await self.answer.run()
        finally:
            self.num_returned += 1


class Engine:
    """Remembers how its work ended."""

    def __init__(self):
        self.num_running = 0
        self.num_aborted = 0

    async def work(self):
        self.num_running += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.num_aborted += 1
            raise
        finally:
            self.num_running -= 1


@pytest.fixture
def engine():
    return Engine()


def streaming(engine, pieces, media_type="text/event-stream"):
    async def route(request):
        async def body():
            for piece in pieces:
                yield piece
            await engine.work()

        return StreamingResponse(body(), media_type=media_type)

    return Endable(Starlette(routes=[Route("/", route)]))


async def body_after(response, app, pieces, until):
    """All that a client gets of a stream that is ended after some pieces."""
    got = b""
    async for piece in response.aiter_raw():
        got += piece
        if got == b"".join(pieces):
            app.answer.end(ENDING)
            app.answer.end(Ending(HTTPStatus.GATEWAY_TIMEOUT, "a second reason"))
    await until(lambda: app.num_returned == 1)
    return got


@pytest.mark.parametrize(
    "pieces",
    [
        [b'data: {"a": 1}\n\n', b'data: {"a": 2}\n\n'],
        [b'data: {"a": 1}', b"\n", b"\n"],
        [b"data: 1\r\n\r\n"],
        [b": a comment\n\n"],
    ],
)
async def test_a_stream_gets_one_error_event_and_its_last_one(serving, engine, until, pieces):
    app = streaming(engine, pieces)
    async with serving(app) as client, client.stream("GET", "/") as response:
        assert response.status_code == 200
        assert await body_after(response, app, pieces, until) == b"".join(pieces) + ERROR_EVENT
    assert (engine.num_running, engine.num_aborted) == (0, 1)


async def test_a_stream_without_an_event_so_far_gets_the_error_as_its_first(serving, engine, until):
    app = streaming(engine, [])
    async with serving(app) as client, client.stream("GET", "/") as response:
        await until(lambda: engine.num_running == 1)
        app.answer.end(ENDING)
        assert await response.aread() == ERROR_EVENT


async def test_nothing_follows_the_last_event(serving, engine, until):
    app = streaming(engine, [b"data: 1\n\n", b"data: [DONE]\n\n"])
    async with serving(app) as client, client.stream("GET", "/") as response:
        await until(lambda: engine.num_running == 1)
        app.answer.end(ENDING)
        assert await response.aread() == b"data: 1\n\ndata: [DONE]\n\n"
    assert engine.num_aborted == 1


@pytest.mark.parametrize(
    ("pieces", "media_type"),
    [
        ([b"data: 1\n\n", b'data: {"half'], "text/event-stream"),
        ([b"data: 1\n"], "text/event-stream"),
        ([b'{"choices": ['], "application/json"),
        ([b'{"a": 1}\n\n'], "application/json"),
    ],
)
async def test_what_cannot_be_ended_properly_is_cut(serving, engine, until, pieces, media_type):
    app = streaming(engine, pieces, media_type)
    async with serving(app) as client, client.stream("GET", "/") as response:
        with pytest.raises(httpx2.RemoteProtocolError):
            await body_after(response, app, pieces, until)
    assert (engine.num_running, engine.num_aborted) == (0, 1)


async def test_a_compressed_stream_is_cut(serving, engine, until, monkeypatch):
    monkeypatch.setattr(ended_answer, "ENGINE_SECONDS", 0.05)  # this application hears nothing

    async def compressed(scope, receive, send):
        headers = [*START["headers"], (b"content-encoding", b"gzip")]
        await send({**START, "headers": headers})
        await engine.work()

    app = Endable(compressed)
    async with serving(app) as client, client.stream("GET", "/") as response:
        app.answer.end(ENDING)
        with pytest.raises(httpx2.RemoteProtocolError):
            await anext(response.aiter_raw())
    await until(lambda: engine.num_aborted == 1)


def like_vllm(engine):
    """A route that hands the work to a task, and cancels that when its client leaves."""

    async def route(request: Request):
        await request.body()
        working = asyncio.create_task(engine.work())

        async def listen():
            while (await request.receive())["type"] != "http.disconnect":
                pass

        listening = asyncio.create_task(listen())
        _, pending = await asyncio.wait([working, listening], return_when="FIRST_COMPLETED")
        for task in pending:
            task.cancel()
        return JSONResponse(None)

    return Endable(Starlette(routes=[Route("/", route, methods=["POST"])]))


def like_sglang(engine):
    """A route that looks from time to time whether its client has left."""

    async def route(request: Request):
        await request.body()
        working = asyncio.create_task(engine.work())
        while not await request.is_disconnected():  # noqa: ASYNC110  (as SGLang does)
            await asyncio.sleep(0.01)
        working.cancel()
        return JSONResponse(None)

    return Endable(Starlette(routes=[Route("/", route, methods=["POST"])]))


@pytest.mark.parametrize("route", [like_vllm, like_sglang])
async def test_an_answer_that_has_not_begun_becomes_an_error(serving, engine, until, route):
    app = route(engine)
    async with serving(app) as client:
        asking = asyncio.create_task(client.post("/", content=b"x"))
        await until(lambda: engine.num_running == 1)
        app.answer.end(ENDING)
        response = await asking
        await until(lambda: app.num_returned == 1)
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "1"
    assert response.json() == {
        "error": {
            "message": "too late",
            "type": "ServiceUnavailableError",
            "param": None,
            "code": 503,
        }
    }
    assert (engine.num_running, engine.num_aborted) == (0, 1)


@pytest.mark.parametrize("route", [like_vllm, like_sglang])
async def test_a_client_that_leaves_still_aborts_its_request(serving, engine, until, route):
    app = route(engine)
    async with serving(app) as client:
        with pytest.raises(httpx2.ReadTimeout):
            await client.post("/", content=b"x", timeout=0.2)
        await until(lambda: app.num_returned == 1)
    assert (engine.num_running, engine.num_aborted) == (0, 1)


async def test_a_client_that_leaves_a_stream_still_aborts_it(serving, engine, until):
    app = streaming(engine, [b"data: 1\n\n"])
    async with serving(app) as client:
        async with client.stream("GET", "/"):
            await until(lambda: engine.num_running == 1)
        await until(lambda: app.num_returned == 1)
    assert (engine.num_running, engine.num_aborted) == (0, 1)


async def test_a_body_that_never_comes_is_answered_too(serving, engine, until):
    app = like_vllm(engine)

    async def half():
        yield b"x"
        await asyncio.sleep(60)

    async with serving(app) as client:
        asking = asyncio.create_task(client.post("/", content=half()))
        await until(lambda: app.answer is not None)
        app.answer.end(ENDING)
        await until(lambda: app.num_returned == 1)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
    assert engine.num_running == 0


async def test_a_client_that_does_not_read_holds_nothing_up(serving, engine, until, monkeypatch):
    monkeypatch.setattr(ended_answer, "CLIENT_SECONDS", 0.1)
    num_sent = 0

    async def flood(scope, receive, send):
        async def leave():
            while (await receive())["type"] != "http.disconnect":
                pass
            sending.cancel()

        async def pour():
            nonlocal num_sent
            while True:
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
                num_sent += 1

        await send(START)
        sending = asyncio.create_task(pour())
        await asyncio.gather(leave(), sending, return_exceptions=True)

    app = Endable(flood)
    async with serving(app) as client:
        with socket.create_connection((client.base_url.host, client.base_url.port)) as reader:
            reader.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            before = -1
            while num_sent != before or not num_sent:  # until nothing fits any more
                before = num_sent
                await asyncio.sleep(0.2)
            app.answer.end(ENDING)
            async with asyncio.timeout(2):
                await until(lambda: app.num_returned == 1)


async def test_an_application_that_hears_nothing_is_cancelled(engine, monkeypatch):
    monkeypatch.setattr(ended_answer, "ENGINE_SECONDS", 0.05)
    sent = []

    async def deaf(scope, receive, send):
        await engine.work()

    async def send(message):
        sent.append(message)

    answer = EndableAnswer(deaf, {"type": "http"}, None, send)
    running = asyncio.create_task(answer.run())
    await asyncio.sleep(0)
    answer.end(ENDING)
    await asyncio.wait_for(running, 2)
    assert [message.get("status") for message in sent] == [503, None]
    assert (engine.num_running, engine.num_aborted) == (0, 1)


async def test_an_application_that_cannot_be_stopped_is_named_and_left(monkeypatch, caplog):
    monkeypatch.setattr(ended_answer, "ENGINE_SECONDS", 0.05)
    may_stop = asyncio.Event()

    async def stubborn(scope, receive, send):
        while not may_stop.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await may_stop.wait()

    async def send(message):
        pass

    answer = EndableAnswer(stubborn, {"type": "http"}, None, send)
    running = asyncio.create_task(answer.run())
    await asyncio.sleep(0)
    answer.end(ENDING)
    await asyncio.wait_for(running, 2)
    assert "still runs" in caplog.text
    may_stop.set()


async def test_an_error_of_the_application_goes_to_the_server():
    async def failing(scope, receive, send):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await EndableAnswer(failing, {"type": "http"}, None, None).run()


async def test_a_server_that_cancels_an_answer_cancels_the_application(engine):
    async def working(scope, receive, send):
        await engine.work()

    running = asyncio.create_task(EndableAnswer(working, {"type": "http"}, None, None).run())
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.sleep(0)
    assert (engine.num_running, engine.num_aborted) == (0, 1)


async def test_an_answer_that_has_ended_cannot_be_ended(serving, until):
    async def route(request):
        return JSONResponse({"whole": True})

    app = Endable(Starlette(routes=[Route("/", route)]))
    async with serving(app) as client:
        assert (await client.get("/")).json() == {"whole": True}
        app.answer.end(ENDING)
        assert (await client.get("/")).json() == {"whole": True}
