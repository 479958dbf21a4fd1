"""An application that says what reached it, and a gate around it."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterable
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI, Request

from dpace_serve.gate import api_document, stack
from dpace_serve.gate_config import LimitsConfig
from dpace_serve.serve_config import ServeConfig
from dpace_serve.web import routes

API, ADMIN, METRICS = "an-api-key", "an-admin-key", "a-metrics-key"


class Gated:
    """The application, what reached it, and what was counted as refused."""

    def __init__(
        self,
        *,
        api: Iterable[str] = (API,),
        admin: str | None = ADMIN,
        metrics: str | None = METRICS,
        limits: LimitsConfig | None = None,
        root_path: str = "",
        **settings: Any,
    ) -> None:
        self.reached: list[tuple[str, str, bytes]] = []
        self.headers: list[dict[str, str]] = []
        self.refused: list[str] = []
        config = ServeConfig(target="t", limits=limits or LimitsConfig(), **settings)
        keys = stack.ServerKeys(tuple(api), admin, metrics)
        self.app = FastAPI(root_path=root_path)
        self.app.state.dpace = None
        routes.attach(self.app, keys.api, keys.admin)
        api_document.attach(self.app, self.app, config, keys)
        stack.install(self.app, config, keys, self.refused.append)

        every = ["GET", "POST", "PUT", "DELETE", "OPTIONS"]

        @self.app.api_route("/{path:path}", methods=every, include_in_schema=False)
        async def reached(path: str, request: Request):
            self.reached.append((request.method, request.scope["path"], await request.body()))
            self.headers.append(dict(request.headers))
            return {"reached": path}

    async def ask(self, method: str, path: str, key: str | None = None, **options: Any):
        headers = dict(options.pop("headers", {}))
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        transport = httpx2.ASGITransport(app=self.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, headers=headers, **options)

    async def complete(self, **values: Any):
        """Ask for a completion with the API key."""
        body = json.dumps({"prompt": "The", **values})
        return await self.post(body.encode())

    async def post(self, content: Any, **headers: str):
        headers = {"Content-Type": "application/json"} | headers
        return await self.ask("POST", "/v1/completions", API, content=content, headers=headers)


@pytest.fixture
def gated():
    """Build it: `gated(limits=LimitsConfig(max_choices=1))`."""
    return Gated


@pytest.fixture
def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


async def raw_status(app, path: str, *headers: tuple[bytes, bytes], method: str = "GET") -> int:
    """Status of a request whose path and headers no client has put in order; a key is needed."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(one):
        sent.append(one)

    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(),
        "headers": [(b"host", b"localhost"), *headers], "query_string": b"", "scheme": "http",
        "server": ("localhost", 80), "client": ("127.0.0.1", 1), "http_version": "1.1",
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"]


def message(response) -> str:
    """What a refusal says, after a look at its shape."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == response.status_code
    assert "\n" not in error["message"]
    return error["message"]


@pytest.fixture
def serving():
    """Serve an application: `async with serving(app) as client: ...`."""
    return _serving


@contextlib.asynccontextmanager
async def _serving(app):
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="off", log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # this process belongs to the tests
    running = asyncio.create_task(server.serve(sockets=[listener]))
    host, port = listener.getsockname()
    try:
        async with httpx2.AsyncClient(
            base_url=f"http://{host}:{port}", timeout=10, trust_env=False
        ) as client:
            yield client
    finally:
        server.should_exit = True
        await running


@pytest.fixture
def until():
    """Wait for a condition: `await until(lambda: ...)`."""
    return _until


async def _until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  (what is waited for has no event)
            await asyncio.sleep(0.002)
