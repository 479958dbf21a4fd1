"""Valid and invalid calls of everything that is open, made from the server's own document."""

import shutil
from http import HTTPStatus
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.responses import Response
from starlette.testclient import TestClient

from dpace_serve.demo.bundle import drafter_folder, target_folder
from dpace_serve.gate import api_document, stack
from dpace_serve.gate_config import LimitsConfig
from dpace_serve.live.admission import Admission, describe
from dpace_serve.live.fleet import Fleet
from dpace_serve.live.operations import Operations
from dpace_serve.live.traffic import Traffic
from dpace_serve.serve_config import ServeConfig
from dpace_serve.web import routes
from dpace_serve.web.error_response import error_response
from tests.api_calls import Caller, call_all

from .conftest import ADMIN, API, METRICS  # noqa: TID252 - tests have no package

NUM_CALLS = 300
KEYS = {"api_key": API, "admin_key": ADMIN, "metrics_key": METRICS}
WEIGHTS = dict.fromkeys(
    [
        "POST /v1/completions",
        "POST /v1/chat/completions",
        "PUT /dpace/drafters/champion",
        "PUT /dpace/drafters/challenger",
        "DELETE /dpace/drafters/challenger",
        "POST /dpace/promote",
        "GET /dpace/acceptance",
        "GET /dpace/acceptance/records",
    ],
    10,
)


class Asked(BaseModel):
    prompt: str | list[str] | None = None
    n: int | None = 1
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None


class AskedInMessages(Asked):
    messages: list[dict[str, Any]]


class LoadsAtOnce:
    async def load(self, slot, folder, revision):
        return 0.0


@pytest.fixture
def application(tmp_path):
    """Real routes of ours, and an engine that answers every completion."""
    shutil.copytree(drafter_folder("dpace"), tmp_path / "root" / "dpace")
    layer_ids = describe(drafter_folder("dpace")).config.target_layer_ids
    fleet = Fleet(
        describe(drafter_folder("dflash")),
        [],
        num_spare_slots=1,
        traffic=Traffic(mode="shadow", share=0.1, shadow_share=1.0, draw_salt="s" * 16),
    )
    app = FastAPI()
    app.state.dpace = None
    app.state.dpace_operations = Operations(
        fleet,
        LoadsAtOnce(),
        Admission(str(target_folder()), tmp_path / "root", 7, layer_ids),
        drain_timeout_seconds=0,
        on_result=lambda *_: None,
    )
    config = ServeConfig(target="t", limits=LimitsConfig(max_choices=2, max_output_tokens=8))
    keys = stack.ServerKeys((API,), ADMIN, METRICS)
    routes.attach(app, keys.api, keys.admin)
    api_document.attach(app, app, config, keys)
    stack.install(app, config, keys, lambda _: None)
    _add_engine(app)
    return app, api_document.build(app, app, config, keys)


def _add_engine(app):
    answer = {"id": "a", "object": "text_completion", "created": 1, "model": "t", "choices": [{}]}

    @app.post("/v1/completions")
    async def complete(asked: Asked) -> dict[str, Any]:
        return answer

    @app.post("/v1/chat/completions")
    async def chat(asked: AskedInMessages) -> dict[str, Any]:
        return answer

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> Response:
        return error_response(HTTPStatus.BAD_REQUEST, "as engines do")

    @app.get("/health", response_class=Response)
    async def health() -> Response:
        return Response()

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response("a 1\n", media_type="text/plain")

    @app.get("/version")
    async def version() -> dict[str, Any]:
        return {"version": "1"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": []}


def test_no_call_is_an_error_of_ours_and_each_answer_is_as_the_document_says(application):
    app, document = application
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:

        def send(request):
            if isinstance(request.get("data"), bytes):
                request["content"] = request.pop("data")
            return client.request(**request, follow_redirects=False)

        calls = call_all(Caller(send, KEYS), document, NUM_CALLS, weights=WEIGHTS)
    assert calls.count.total() >= NUM_CALLS
    assert not calls.findings, calls.report()
    for label in WEIGHTS:
        assert calls.statuses(label) - {401}, calls.report()  # it came as far as the handler
        assert 401 in calls.statuses(label)
    assert {200, 400} <= calls.statuses("POST /v1/completions")
    assert {200, 422} <= calls.statuses("GET /dpace/acceptance/records")
    assert {404, 422} <= calls.statuses("POST /dpace/promote")
