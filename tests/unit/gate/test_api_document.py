"""The OpenAPI document has what is open on a server, for whom, and nothing else."""

import json

import jsonschema_rs
import pytest
from fastapi import FastAPI

from dpace_serve.gate import api_document, stack
from dpace_serve.gate_config import LimitsConfig, ObservationConfig
from dpace_serve.serve_config import ServeConfig
from dpace_serve.web import routes

from .conftest import ADMIN, API, METRICS  # noqa: TID252 - tests have no package

OF_THE_ENGINE = {
    "GET /health", "GET /metrics", "GET /version", "GET /v1/models", "POST /v1/chat/completions",
    "POST /v1/completions",
}  # fmt: skip
READING = {
    "GET /dpace/acceptance", "GET /dpace/acceptance/records", "GET /dpace/history",
    "GET /dpace/drafters", "GET /dpace/verdict", "GET /dpace/openapi.json",
}  # fmt: skip
CHANGING = {
    "PUT /dpace/drafters/champion", "PUT /dpace/drafters/challenger",
    "DELETE /dpace/drafters/challenger", "POST /dpace/promote",
}  # fmt: skip
KEYS = {"api_key": API, "admin_key": ADMIN, "metrics_key": METRICS}
SHUT_OUT = (401, 403)


async def document_of(server, key=API):
    response = await server.ask("GET", "/dpace/openapi.json", key)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


def operations(document):
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method != "servers"
    }


def pages(document):
    return {route for route in operations(document) if route.startswith(("GET /dpace/static/",))}


async def test_it_has_every_open_route_and_nothing_else(gated):
    document = await document_of(gated())
    page = {"GET /dpace", "GET /dpace/", *pages(document)}
    heads = {route.replace("GET", "HEAD") for route in page}
    assert len(page) > 4
    assert set(operations(document)) == OF_THE_ENGINE | READING | CHANGING | page | heads


async def test_every_route_of_the_application_that_answers_is_in_it(gated):
    server = gated()
    found = operations(await document_of(server))
    for route in server.app.routes:
        for method in (route.methods or ()) if "{" not in route.path else ():
            answer = await server.ask(method, route.path, ADMIN, follow_redirects=False)
            is_there = answer.status_code not in (404, 405)
            assert is_there is (f"{method} {route.path}" in found), (method, route.path)


@pytest.mark.parametrize(
    "names",
    [
        ("api_key", "admin_key", "metrics_key"), ("api_key",), ("admin_key",), ("metrics_key",),
        ("api_key", "metrics_key"), ("api_key", "admin_key"), ("admin_key", "metrics_key"), (),
    ],
)  # fmt: skip
async def test_the_keys_of_each_operation_are_those_that_the_gate_lets_in(gated, names):
    present = {name: KEYS[name] for name in names}
    server = gated(
        api=[present["api_key"]] if "api_key" in present else [],
        admin=present.get("admin_key"),
        metrics=present.get("metrics_key"),
    )
    found = operations(await document_of(server, present.get("api_key")))
    assert set(found) & CHANGING == (CHANGING if "admin_key" in present else set())
    for route, operation in found.items():
        method, path = route.split()
        named = {name for one in operation.get("security", []) for name in one}
        assert named <= set(present)
        for name, key in {**KEYS, None: None, "wrong": "wrong"}.items():
            options = {"content": b"{}", "headers": {"Content-Type": "application/json"}}
            answer = await server.ask(method, path, key, **(options if method == "POST" else {}))
            is_let_in = not named or name in named
            refusal = answer.json()["error"]["message"] if answer.status_code in SHUT_OUT else ""
            assert is_let_in is not refusal.startswith("This route needs"), (route, name)
            assert ("401" in operation["responses"]) is bool(named)


async def test_without_an_admin_key_no_change_is_open(gated):
    assert not CHANGING & set(operations(await document_of(gated(admin=None))))


async def test_what_the_operator_opens_is_in_it(gated):
    document = await document_of(gated(open_routes=("POST /tokenize", "GET /load")))
    found = operations(document)
    assert found["POST /tokenize"]["security"] == [{"api_key": []}]
    assert {"429", "413", "415"} <= set(found["POST /tokenize"]["responses"])
    assert set(found["GET /load"]["responses"]) == {"200", "401", "404", "421", "503"}


async def test_it_needs_the_key_of_a_reader(gated):
    for key, status in {None: 401, "wrong": 401, METRICS: 401, API: 200, ADMIN: 200}.items():
        assert (await gated().ask("GET", "/dpace/openapi.json", key)).status_code == status
    assert (await gated(api=()).ask("GET", "/dpace/openapi.json")).status_code == 200


async def test_it_is_openapi_3_1_and_whole(gated):
    document = await document_of(gated())
    assert document["openapi"] == "3.1.0"
    schemas = document["components"]["schemas"]
    references = set(_references(document))
    assert references == {f"#/components/schemas/{name}" for name in schemas}
    for schema in schemas.values():
        jsonschema_rs.meta.validate(schema)
    names = [one.get("operationId") for one in operations(document).values()]
    named = [name for name in names if name is not None]
    assert len(set(named)) == len(named) > 0


def _references(value):
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for one in value.values():
            yield from _references(one)
    elif isinstance(value, list):
        for one in value:
            yield from _references(one)


async def test_a_listener_of_its_own_sends_the_others_to_the_main_port():
    config = ServeConfig(target="t", port=8443, observation=ObservationConfig(port=8001))
    app = FastAPI()
    app.state.dpace = None
    routes.attach(app, (), None)
    document = api_document.build(app, app, config, stack.ServerKeys((), None, None))
    [main] = document["paths"]["/v1/models"]["servers"]
    assert main["url"] == "http://{host}:8443"
    assert document["paths"]["/health"]["servers"] == [{"url": "/"}, main]
    assert "servers" not in document["paths"]["/metrics"]
    assert "servers" not in document["paths"]["/dpace/verdict"]


async def test_the_body_of_a_change_is_described_as_it_is_checked(gated):
    found = operations(await document_of(gated()))
    body = found["PUT /dpace/drafters/champion"]["requestBody"]
    assert body["required"]
    schema = jsonschema_rs.validator_for(body["content"]["application/json"]["schema"])
    assert schema.is_valid({"folder": "a", "name": "b", "revision": "0af"})
    for wrong in ({}, {"folder": ""}, {"folder": 1}, {"folder": "a", "x": 1}, {"name": "a b"}):
        assert not schema.is_valid(wrong)
    parameters = found["DELETE /dpace/drafters/challenger"]["parameters"]
    assert [(one["name"], one["in"], one["required"]) for one in parameters] == [
        ("name", "query", False), ("revision", "query", False)
    ]  # fmt: skip


def test_requests_are_described_within_the_limits_and_without_what_is_shut():
    from pydantic import BaseModel

    class Asked(BaseModel):
        prompt: list[str] | str | None = None
        n: int | None = 1
        stop: str | list[str] = []
        logit_bias: dict[str, float] | None = None
        priority: int = 0
        chat_template: str | None = None
        temperature: float = 1.0

    app = FastAPI()

    @app.post("/v1/completions")
    async def complete(asked: Asked):
        return {}

    limits = LimitsConfig(max_choices=3, max_stops=2, max_stop_characters=5, max_listed_tokens=1)
    config = ServeConfig(target="t", limits=limits)
    document = api_document.build(app, app, config, stack.ServerKeys((), None, None))
    schema = document["components"]["schemas"]["Asked"]
    assert set(schema["properties"]) == {"prompt", "n", "stop", "logit_bias", "temperature"}
    check = jsonschema_rs.validator_for(json.loads(json.dumps(schema)))
    for right in ({"n": 3}, {"n": None}, {"stop": ["12345", "a"]}, {"logit_bias": {"1": 2}}):
        assert check.is_valid(right), right
    for wrong in ({"n": 4}, {"stop": "123456"}, {"stop": ["a"] * 3}, {"stop": ["123456"]}):
        assert not check.is_valid(wrong), wrong
    assert not check.is_valid({"logit_bias": {"1": 2, "2": 3}})
