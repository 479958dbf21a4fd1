"""What stands before SGLang's application: our routes, all metrics, and no way to weights."""

import httpx2
import pytest
from fastapi import FastAPI
from starlette.responses import PlainTextResponse

from dpace_serve.sglang_engine.front import WEIGHT_PATHS, Front


def named(name):
    async def application(scope, receive, send):
        await PlainTextResponse(name)(scope, receive, send)

    return application


async def ask(path, method="GET", root_path="", **headers):
    front = Front(named("engine"), named("ours"), named("metrics"))

    async def mounted(scope, receive, send):
        await front({**scope, "root_path": root_path}, receive, send)

    transport = httpx2.ASGITransport(app=mounted)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, headers=headers)


@pytest.mark.parametrize(
    ("path", "who"),
    [
        ("/dpace/acceptance", "ours"),
        ("/dpace", "ours"),
        ("/dpaces", "engine"),
        ("/metrics", "metrics"),
        ("/metrics/", "metrics"),
        ("/v1/chat/completions", "engine"),
        ("/update_weight_version", "engine"),
        ("/v1/update_weights_from_disk", "engine"),
    ],
)
async def test_each_path_has_one_that_answers(path, who):
    assert (await ask(path)).text == who


@pytest.mark.parametrize("path", sorted(WEIGHT_PATHS))
@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
async def test_no_way_to_write_weights_is_open(path, method):
    answer = await ask(path, method)
    assert answer.status_code == 403
    assert "dpace drafter swap" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/behind/update_weights_from_disk", "/update_weights_from_disk/"])
async def test_another_spelling_of_the_path_does_not_open_it(path):
    assert (await ask(path, "POST", root_path="/behind")).status_code == 403


async def test_a_forged_host_does_not_open_it():
    answer = await ask("/update_weights_from_disk", "POST", host="test/health?")
    assert answer.status_code == 403


async def test_messages_of_the_server_itself_go_to_the_engine():
    seen = []

    async def engine(scope, receive, send):
        seen.append(scope["type"])

    await Front(engine, FastAPI(), named("metrics"))({"type": "lifespan"}, None, None)
    assert seen == ["lifespan"]
