"""Answers behind a deadline and a drain: who is answered, who is refused, and how the rest ends."""

import asyncio
import json
import time

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

from dpace_serve.gate import ended_answer
from dpace_serve.gate.bounded_answers import BoundedAnswers
from dpace_serve.gate.draining import Drain
from dpace_serve.gate.route_table import is_observing

ASKED = "/v1/completions"


class Model:
    """Answers when it is let."""

    def __init__(self):
        self.may_answer = asyncio.Event()
        self.num_running = 0

    async def answer(self):
        self.num_running += 1
        try:
            await self.may_answer.wait()
        finally:
            self.num_running -= 1


@pytest.fixture
async def model():
    return Model()


@pytest.fixture
async def drain():
    return Drain()


@pytest.fixture
def refused():
    """Why requests were refused or answers ended."""
    return []


@pytest.fixture
def bounded(model, drain, refused, monkeypatch):
    """An application like an engine's, with a deadline."""
    monkeypatch.setattr(ended_answer, "ENGINE_SECONDS", 0.05)  # its route for whole answers is deaf

    async def completions(request):
        if (await request.json()).get("stream"):

            async def events():
                yield "data: begun\n\n"
                await model.answer()
                yield "data: ended\n\ndata: [DONE]\n\n"

            return StreamingResponse(events(), media_type="text/event-stream")
        await model.answer()
        return JSONResponse({"ended": True})

    async def plain(request):
        return PlainTextResponse(request.url.path)

    async def slow(request):
        await model.answer()
        return PlainTextResponse("changed")

    app = Starlette(
        routes=[
            Route(ASKED, completions, methods=["POST"]),
            *[Route(path, plain) for path in ("/health", "/v1/models", "/metrics")],
            Route("/dpace/acceptance", plain),
            Route("/dpace/promote", slow, methods=["POST"]),
        ]
    )
    return lambda deadline_seconds=60.0: BoundedAnswers(
        app, drain, deadline_seconds=deadline_seconds, count=refused.append
    )


async def read(client, **body):
    async with client.stream("POST", ASKED, json={"stream": True, **body}) as response:
        return (await response.aread()).decode()


async def ask(client):
    return await client.post(ASKED, json={})


def error_of(stream):
    """The one error event of a stream, after its first event and before its last one."""
    begun, error, done, nothing = stream.split("\n\n")
    assert (begun, done, nothing) == ("data: begun", "data: [DONE]", "")
    return json.loads(error.removeprefix("data: "))["error"]


async def test_within_its_deadline_an_answer_is_the_applications_own(
    serving, bounded, model, refused
):
    model.may_answer.set()
    async with serving(bounded()) as client:
        assert (await ask(client)).json() == {"ended": True}
        assert await read(client) == "data: begun\n\ndata: ended\n\ndata: [DONE]\n\n"
    assert refused == []


async def test_at_its_deadline_an_answer_ends_with_an_error(
    serving, bounded, model, drain, refused, until
):
    async with serving(bounded(deadline_seconds=0.2)) as client:
        error = error_of(await read(client))
        response = await ask(client)
        await until(lambda: model.num_running == 0)
    assert (error["code"], error["type"]) == (504, "TimeoutError")
    assert "0.2 s" in error["message"]
    assert response.status_code == 504
    assert response.json()["error"] == error
    assert "Retry-After" not in response.headers  # it would take as long again
    assert not drain.is_draining
    assert refused == ["deadline", "deadline"]


async def test_a_change_of_drafters_has_no_deadline(serving, bounded, model):
    async with serving(bounded(deadline_seconds=0.05)) as client:
        change = asyncio.create_task(client.post("/dpace/promote"))
        await asyncio.sleep(0.3)
        model.may_answer.set()
        assert (await change).text == "changed"


async def test_a_draining_server_refuses_what_is_new_and_shows_what_it_does(
    serving, bounded, drain, refused
):
    async with serving(bounded()) as client:
        assert (await client.get("/health")).status_code == 200
        drain.begin()
        for response in (
            await ask(client),
            await client.get("/health"),
            await client.get("/v1/models"),
            await client.post("/dpace/promote"),
        ):
            assert response.status_code == 503
            assert response.json()["error"]["type"] == "ServiceUnavailableError"
            assert response.headers["Retry-After"] == "1"
            assert response.headers["Connection"] == "close"
        for path in ("/metrics", "/dpace/acceptance"):
            assert (await client.get(path)).text == path
    assert refused == ["draining"] * 3  # a probe asked for nothing


async def test_a_drain_waits_for_running_answers(serving, bounded, model, drain, until):
    async with serving(bounded()) as client:
        stream = asyncio.create_task(read(client))
        whole = asyncio.create_task(ask(client))
        await until(lambda: model.num_running == 2)
        finishing = asyncio.create_task(drain.finish(60))
        await asyncio.sleep(0.05)
        assert not finishing.done()
        model.may_answer.set()
        await finishing
        assert await stream == "data: begun\n\ndata: ended\n\ndata: [DONE]\n\n"
        assert (await whole).json() == {"ended": True}


async def test_at_its_limit_a_drain_ends_what_still_runs(
    serving, bounded, model, drain, refused, until
):
    async with serving(bounded()) as client:
        stream = asyncio.create_task(read(client))
        whole = asyncio.create_task(ask(client))
        await until(lambda: model.num_running == 2)
        started = time.monotonic()
        await drain.finish(0.3)
        assert 0.3 <= time.monotonic() - started < 2
        assert model.num_running == 0
        error, response = error_of(await stream), await whole
    assert (error["code"], error["type"]) == (503, "ServiceUnavailableError")
    assert response.status_code == 503
    assert response.json()["error"] == error
    assert response.headers["Retry-After"] == "1"
    assert refused == ["draining", "draining"]


async def test_a_drain_of_no_time_ends_answers_at_once(serving, bounded, model, drain, until):
    async with serving(bounded()) as client:
        stream = asyncio.create_task(read(client))
        await until(lambda: model.num_running == 1)
        await asyncio.wait_for(drain.finish(0), 1)
        assert error_of(await stream)["code"] == 503


async def test_an_idle_server_drains_at_once(drain):
    await asyncio.wait_for(drain.finish(60), 1)
    assert drain.is_draining
    await asyncio.wait_for(drain.finish(0), 1)


async def test_a_draining_server_opens_no_websocket(bounded, drain):
    sent = []

    async def send(message):
        sent.append(message)

    drain.begin()
    await bounded()({"type": "websocket", "path": "/v1/realtime"}, None, send)
    assert sent == [{"type": "websocket.close", "code": 1012}]


@pytest.mark.parametrize(
    ("path", "root_path", "is_it"),
    [
        ("/metrics", "", True),
        ("/metrics/", "", False),
        ("/dpace/", "", True),
        ("/prefix/metrics", "/prefix", True),
        ("/prefix/dpace/verdict", "/prefix", True),
        ("/metrics2", "", False),
        ("/v1/metrics", "", False),
        ("/dpacex", "", False),
        ("/health", "", False),
    ],
)
def test_observation_is_metrics_and_all_below_dpace(path, root_path, is_it):
    assert is_observing({"type": "http", "path": path, "root_path": root_path}) is is_it
