"""Bodies, queries and headers that nobody meant: an answer in the API's shape, and no change."""

import json
import shutil

import httpx2
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from dpace_serve.demo.bundle import drafter_folder, target_folder
from dpace_serve.live.admission import Admission, describe
from dpace_serve.live.fleet import Fleet
from dpace_serve.live.operations import Operations
from dpace_serve.live.traffic import Traffic
from dpace_serve.web import routes
from dpace_serve.web.workload_header import WORKLOAD_HEADER, WorkloadHeader, workload_of_header
from tests.fuzzing import FUZZ, SECRET, VALUES, json_files

BODY = {"folder": "dpace", "name": "a", "revision": "31de"}
CHANGES = [
    ("PUT", "/dpace/drafters/champion"),
    ("PUT", "/dpace/drafters/challenger"),
    ("DELETE", "/dpace/drafters/challenger"),
    ("POST", "/dpace/promote"),
]
NAMES = ["name", "revision", "folder", "x"]


class NeverLoads:
    async def load(self, slot, folder, revision):
        pytest.fail("nothing here may be loaded")


@pytest.fixture
def app(tmp_path):
    root = tmp_path / "root"
    shutil.copytree(drafter_folder("dpace"), root / "other")  # what a body cannot name by chance
    champion = describe(drafter_folder("dflash"))
    traffic = Traffic(mode="shadow", share=0.1, shadow_share=1.0, draw_salt=SECRET)
    operations = Operations(
        Fleet(champion, [], num_spare_slots=1, traffic=traffic),
        NeverLoads(),
        Admission(str(target_folder()), root, 7, champion.config.target_layer_ids),
        drain_timeout_seconds=0,
        on_result=lambda *result: None,
    )
    app = FastAPI()
    app.state.dpace = None
    app.state.dpace_operations = operations
    routes.attach(app, (), "admin-key")
    return app


async def ask(app, method, path, **request):
    transport = httpx2.ASGITransport(app=app)  # an exception of the application comes through
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        headers = {"authorization": "Bearer admin-key"}
        return await client.request(method, path, headers=headers, **request)


def require_refusal(response, root):
    assert response.status_code in (400, 403, 404, 409, 413, 422)
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].isprintable()
    assert str(root) not in error["message"]
    assert SECRET not in error["message"]


@FUZZ
@given(change=st.sampled_from(CHANGES), body=json_files(BODY), query=st.text(max_size=20))
async def test_any_body_is_answered_and_changes_nothing(app, tmp_path, change, body, query):
    method, path = change
    response = await ask(app, method, path, content=body, params={"name": query})
    require_refusal(response, tmp_path)


@FUZZ
@given(
    query=st.lists(
        st.tuples(st.sampled_from(NAMES), st.text(max_size=70) | VALUES.map(ascii)), max_size=4
    )
)
async def test_any_query_is_answered_and_changes_nothing(app, tmp_path, query):
    encoded = [(name, value.encode("utf-8", "replace")) for name, value in query]
    response = await ask(app, "DELETE", "/dpace/drafters/challenger", params=encoded)
    require_refusal(response, tmp_path)


@FUZZ
@given(raw=st.binary(max_size=60))
async def test_any_query_string_is_answered(app, tmp_path, raw):
    """Bytes that no client would send, as a server hands them over."""
    scope = {
        "type": "http", "method": "DELETE", "path": "/dpace/drafters/challenger", "root_path": "",
        "query_string": raw, "headers": [(b"authorization", b"Bearer admin-key")],
        "http_version": "1.1", "scheme": "http", "server": ("test", 80), "client": ("test", 1),
    }  # fmt: skip
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] in (404, 409, 422)
    assert json.loads(sent[1]["body"])["error"]["message"].isprintable()


@FUZZ
@given(value=st.binary(max_size=60))
async def test_any_workload_header_is_text_or_none(value):
    seen = []

    async def inner(scope, receive, send):
        seen.append(workload_of_header())

    scope = {"type": "http", "headers": [(WORKLOAD_HEADER.lower().encode(), value)]}
    await WorkloadHeader(inner)(scope, None, None)
    assert isinstance(seen[0], str)
