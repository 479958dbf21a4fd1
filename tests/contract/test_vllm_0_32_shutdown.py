"""vLLM 0.32's own HTTP server at SIGTERM, around a scripted engine: nothing it drains is lost."""

import asyncio
import gc
import json
import os
import signal
import socket
from types import SimpleNamespace

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from prometheus_client import CollectorRegistry

from dpace_serve.demo import bundle
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
async def app(engine, tmp_path):
    """An application with vLLM's lifespan and our plugin, which streams one answer."""
    from vllm.entrypoints.launchers.utils.server_utils import lifespan

    config = ServeConfig(
        target=str(bundle.target_folder()),
        drafter=bundle.drafter_folder("dpace"),
        acceptance_log=AcceptanceLogConfig(path=tmp_path / "log.jsonl"),
    )
    app = FastAPI(lifespan=lifespan)
    app.state.args = SimpleNamespace(dpace_config=config, api_key=None)
    app.state.engine_client, app.state.log_stats = engine, False
    plugin.AcceptanceEndpoint().attach_router(app)
    plugin.record_until_the_end(engine, app.state, config, ())

    @app.get("/answer")
    async def answer():
        async def chunks():
            yield "begun\n"
            await ask(engine, "drained")
            yield "ended\n"

        return StreamingResponse(chunks())

    yield app
    gc.unfreeze()  # vLLM's lifespan froze what this process holds


async def test_vllm_0_32_takes_the_last_answer_before_its_application_ends(app, engine, tmp_path):
    from vllm.entrypoints.launchers.launcher import serve_http

    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()

    async def serve():
        """As vLLM's `run_server_worker` does."""
        ending = await serve_http(app, sock=listener, host=host, port=port, log_level="warning")
        engine.shutdown(timeout=30)
        await ending

    async def stop_while_it_answers(lines):
        assert await anext(lines) == "begun"
        os.kill(os.getpid(), signal.SIGTERM)
        while not engine.is_stopping.is_set():  # noqa: ASYNC110  (set by another thread)
            await asyncio.sleep(0.002)
        engine.may_answer.set()
        return [line async for line in lines]

    async with asyncio.timeout(60), httpx2.AsyncClient(trust_env=False) as client:
        serving = asyncio.create_task(serve())
        async with client.stream("GET", f"http://{host}:{port}/answer") as response:
            assert await stop_while_it_answers(response.aiter_lines()) == ["ended"]
        await serving
    (row,) = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert (row["request_id"], row["arm"], row["excluded"]) == ("drained", "champion", None)
    assert engine.events == ["shutdown", "shutdown"]
