"""Valid and invalid calls of everything that is open, made from the server's own document."""

import random
import shutil

import pytest
import schemathesis
from fastapi import FastAPI

from dpace_serve.demo.bundle import drafter_folder, target_folder
from dpace_serve.gate import api_document, stack
from dpace_serve.gate_config import LimitsConfig
from dpace_serve.live.admission import Admission, describe
from dpace_serve.live.fleet import Fleet
from dpace_serve.live.operations import Operations
from dpace_serve.live.traffic import Traffic
from dpace_serve.serve_config import ServeConfig
from dpace_serve.web import routes
from tests.api_calls import call_all

from .conftest import ADMIN, API, METRICS  # noqa: TID252 - tests have no package

NUM_CALLS = 300


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

    @app.get("/health")
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
