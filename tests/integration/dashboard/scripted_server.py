"""The real page and key guard before scripted JSON."""

import contextlib
import socket
import threading
import time
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, PlainTextResponse

from dpace_serve.dashboard.files import PLOTLY, read_files
from dpace_serve.dashboard.routes import build_router, public_paths
from dpace_serve.web.admin_routes import ChallengerChoice
from dpace_serve.web.key_guard import PREFIX, KeyGuard

API_KEY, ADMIN_KEY = "an-api-key", "an-admin-key"
STOP_SECONDS = 10
FILES = read_files()


class ScriptedServer:
    """The page on a port of its own; `answers` says what its routes give, none is a 404."""

    def __init__(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/dpace/"
        self.clear()
        self._server = self._thread = None

    def clear(self):
        self.answers: dict[str, Any] = {}
        self.keys: tuple[str, ...] = ()
        self.admin_key: str | None = ADMIN_KEY
        self.has_plotly = True
        self.refusal: tuple[int, str] | None = None
        self.changes: list[Any] = []
        self.asked: list[str] = []

    @property
    def is_changed(self):
        """Whether it is to be restarted before it is as it was."""
        return bool(self.keys) or self.admin_key != ADMIN_KEY or not self.has_plotly

    def start(self):
        config = uvicorn.Config(self._app(), port=self.port, log_level="critical")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + STOP_SECONDS
        while not self._server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def stop(self):
        if self._server is None:
            return
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(STOP_SECONDS)
        assert not self._thread.is_alive()
        self._server = None

    def restart(self):
        self.stop()
        self.start()

    @contextlib.contextmanager
    def away(self):
        self.stop()
        try:
            yield
        finally:
            self.start()

    def _app(self):
        app = FastAPI()
        files = {n: f for n, f in FILES.items() if self.has_plotly or n != PLOTLY}
        app.include_router(build_router(files, PREFIX))
        app.add_middleware(
            KeyGuard,
            api_keys=self.keys,
            admin_key=self.admin_key,
            public_paths=public_paths(files, PREFIX),
            on_unauthorized=lambda scope: None,
        )

        @app.get("/metrics")
        async def metrics():
            return PlainTextResponse("dpace_example 1\n")

        @app.get("/dpace/{route}")
        async def answer(route: str):
            self.asked.append(route)
            given = self.answers.get(route)
            given = given() if callable(given) else given
            if given is None:
                return JSONResponse({"error": {"message": "Not Found"}}, 404)
            return given

        @app.post("/dpace/promote")
        async def promote(request: Request):
            return self._changed("promote", await request.json())

        @app.delete("/dpace/drafters/challenger")
        async def drop(request: Request):
            return self._changed("drop", dict(request.query_params))

        return app

    def _changed(self, operation, choice):
        ChallengerChoice.model_validate(choice)  # an error of the page's would be one of the tests'
        if self.refusal is not None:
            status, message = self.refusal
            return JSONResponse({"error": {"message": message}}, status)
        self.changes.append([operation, choice])
        return {"operation": operation}
