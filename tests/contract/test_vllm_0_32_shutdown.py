"""vLLM 0.32's own HTTP server at SIGTERM, around a scripted engine: nothing it drains is lost."""

import asyncio
import contextlib
import gc
import inspect
import json
import os
import signal
import socket
from http import HTTPStatus
from types import SimpleNamespace

import httpx2
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from prometheus_client import CollectorRegistry

from dpace_serve.demo import bundle
from dpace_serve.gate.ended_answer import EndableAnswer, Ending
from dpace_serve.serve_config import AcceptanceLogConfig, ServeConfig
from dpace_serve.vllm_engine import plugin
from dpace_serve.vllm_engine import recording as recording_module
from tests.unit.vllm_engine.slow_engine import SlowEngine, ask

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setattr(recording_module, "REGISTRY", CollectorRegistry())
    engine = SlowEngine()
    engine.vllm_config.shutdown_timeout = 30
    engine.is_running = True
    return engine


@pytest.fixture
def make_app(engine, tmp_path):
    """An application with vLLM's lifespan and our plugin, which streams one answer."""
    from vllm.entrypoints.launchers.utils.server_utils import lifespan

    def make(shutdown_timeout_seconds=30):
        config = ServeConfig(
            target=str(bundle.target_folder()),
            drafter=bundle.drafter_folder("dpace"),
            acceptance_log=AcceptanceLogConfig(path=tmp_path / "log.jsonl"),
            shutdown_timeout_seconds=shutdown_timeout_seconds,
            open_routes=("GET /answer", "GET /flood"),
        )
        app = FastAPI(lifespan=lifespan)
        app.state.args = SimpleNamespace(dpace_config=config, api_key=None)
        app.state.engine_client, app.state.log_stats = engine, False
        plugin.AcceptanceEndpoint().attach_router(app)
        plugin.record_until_the_end(engine, app.state, config, ())
        plugin.drain_first(engine, app.state, config)

        @app.get("/answer")
        async def answer():
            async def chunks():
                yield "data: begun\n\n"
                await ask(engine, "drained")
                yield "data: ended\n\n"

            return StreamingResponse(chunks(), media_type="text/event-stream")

        @app.get("/flood")
        async def flood():
            async def chunks():
                for _ in range(16):  # more than the sockets of both sides hold
                    yield b"x" * 2_000_000

            return StreamingResponse(chunks())

        return app

    yield make
    gc.unfreeze()  # vLLM's lifespan froze what this process holds


@contextlib.asynccontextmanager
async def serving(app, engine):
    """vLLM's server around an application, as its `run_server_worker` runs it, until it ends."""
    from vllm.entrypoints.launchers.launcher import serve_http

    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()

    async def serve():
        # `dpace serve` gives the last one to `run_server`, which passes it on.
        ending = await serve_http(
            app,
            sock=listener,
            host=host,
            port=port,
            log_level="critical",
            timeout_graceful_shutdown=1,
        )
        engine.shutdown(timeout=30)
        await ending

    async with (
        asyncio.timeout(60),
        httpx2.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False) as client,
    ):
        running = asyncio.create_task(serve())
        yield client, running
        await running


def rows(tmp_path):
    return [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]


async def test_vllm_0_32_takes_the_last_answer_before_its_application_ends(
    make_app, engine, tmp_path
):
    app = make_app()
    async with serving(app, engine) as (client, _), client.stream("GET", "/answer") as response:
        pieces = response.aiter_text()
        assert await anext(pieces) == "data: begun\n\n"
        os.kill(os.getpid(), signal.SIGTERM)
        while not app.state.dpace_drain.is_draining:  # noqa: ASYNC110  (it has no event)
            await asyncio.sleep(0.002)
        assert (await client.get("/answer")).status_code == 503
        assert engine.events == []  # it takes calls as long as answers run
        engine.may_answer.set()
        assert [piece async for piece in pieces] == ["data: ended\n\n"]
    (row,) = rows(tmp_path)
    assert (row["request_id"], row["arm"], row["excluded"]) == ("drained", "champion", None)
    assert engine.events == ["shutdown", "shutdown"]


async def test_vllm_0_32_stops_after_answers_that_take_too_long(make_app, engine, tmp_path):
    async with (
        serving(make_app(shutdown_timeout_seconds=0), engine) as (client, _),
        client.stream("GET", "/answer") as response,
    ):
        pieces = response.aiter_text()
        assert await anext(pieces) == "data: begun\n\n"
        os.kill(os.getpid(), signal.SIGTERM)
        error, done = "".join([piece async for piece in pieces]).split("\n\n", 1)
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == 503
    assert done == "data: [DONE]\n\n"
    (row,) = rows(tmp_path)
    assert (row["request_id"], row["excluded"]) == ("drained", "aborted")
    assert engine.events == ["shutdown", "shutdown"]


async def test_vllm_0_32_ends_although_a_client_does_not_read(make_app, engine):
    app = make_app(shutdown_timeout_seconds=0)
    async with serving(app, engine) as (client, running):
        with socket.create_connection((client.base_url.host, client.base_url.port)) as reader:
            reader.sendall(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.sleep(0.5)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(asyncio.shield(running), 10)
    assert engine.events == ["shutdown", "shutdown"]


async def test_vllm_0_32_cancels_a_whole_answer_whose_client_has_left():
    """Which is how an answer is ended; a route that is only cancelled itself goes on."""
    from vllm.entrypoints.serve.utils.api_utils import with_cancellation

    started, cancelled = asyncio.Event(), asyncio.Event()
    app = FastAPI()

    @app.get("/")
    @with_cancellation
    async def route(raw_request: Request):
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    sent = []

    async def receive():
        return await asyncio.Future()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
    answer = EndableAnswer(app, scope, receive, send)
    running = asyncio.create_task(answer.run())
    await started.wait()
    answer.end(Ending(HTTPStatus.GATEWAY_TIMEOUT, "too late"))
    await asyncio.wait_for(running, 2)
    assert cancelled.is_set()
    assert [message.get("status") for message in sent] == [504, None]


def test_vllm_0_32_ends_a_stream_with_done_after_an_error_too():
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion

    for generator in (
        OpenAIServingChat.chat_completion_stream_generator,
        OpenAIServingCompletion.completion_stream_generator,
    ):
        source = inspect.getsource(generator).rstrip()
        assert source.endswith('yield "data: [DONE]\\n\\n"')
        # On the level of the function's own body, and so after every error.
        assert source.splitlines()[-1].index("yield") == 8


def test_vllm_0_32_passes_what_bounds_its_end_on_to_uvicorn():
    from vllm.entrypoints.launchers.api_server import entry

    for step in (entry.run_server, entry.run_server_worker, entry.build_and_serve):
        parameters = inspect.signature(step).parameters.values()
        assert [one.name for one in parameters if one.kind is one.VAR_KEYWORD] == ["uvicorn_kwargs"]
        # Where it is taken, and where it is passed on.
        assert inspect.getsource(step).count("**uvicorn_kwargs") == 2
