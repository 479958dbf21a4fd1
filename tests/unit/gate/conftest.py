"""A real uvicorn around a tiny application, in the test's own event loop."""

import asyncio
import contextlib
import socket

import httpx2
import pytest
import uvicorn


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
