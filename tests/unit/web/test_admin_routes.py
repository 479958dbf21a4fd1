"""The routes that show and change drafters, on a real application with a scripted engine."""

import asyncio
import json
import shutil
from http import HTTPStatus

import httpx2
import pytest
from fastapi import FastAPI

from dpace_serve.demo.bundle import drafter_folder, target_folder
from dpace_serve.errors import ConfigError, SwapError
from dpace_serve.live.admission import Admission, describe
from dpace_serve.live.fleet import Fleet
from dpace_serve.live.operations import Operations
from dpace_serve.live.traffic import Traffic
from dpace_serve.web import routes

ADMIN, READ = "admin-key", "read-key"
SALT = "the-salt-of-draws"
CHANGES = [
    ("PUT", "/dpace/drafters/champion"),
    ("PUT", "/dpace/drafters/challenger"),
    ("DELETE", "/dpace/drafters/challenger"),
    ("POST", "/dpace/promote"),
]


class FakeEngine:
    def __init__(self):
        self.has_begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.error = None

    async def load(self, slot, folder, revision):
        self.has_begun.set()
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return 0.25


class Server:
    """An application whose champion is the bundled dflash; dpace may be loaded."""

    def __init__(self, root, *, keys=(READ,), admin_key=ADMIN, root_path=""):
        config = describe(drafter_folder("dpace")).config
        self.engine = FakeEngine()
        self.has_ended = asyncio.Event()
        self.results = []
        operations = Operations(
            Fleet(
                describe(drafter_folder("dflash")),
                [],
                num_spare_slots=1,
                traffic=Traffic(mode="shadow", share=0.1, shadow_share=1.0, draw_salt=SALT),
            ),
            self.engine,
            Admission(str(target_folder()), root, 7, config.target_layer_ids),
            drain_timeout_seconds=0,
            on_result=self._end,
        )
        self.app = FastAPI(root_path=root_path)
        self.app.state.dpace = None
        self.app.state.dpace_operations = operations
        routes.attach(self.app, keys, admin_key)

    def _end(self, *result):
        self.results.append(result)
        self.has_ended.set()

    async def ask(self, method, path, key=ADMIN, **request):
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        transport = httpx2.ASGITransport(app=self.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, headers=headers, **request)

    async def names(self):
        shown = (await self.ask("GET", "/dpace/drafters")).json()
        return [(row["role"], row["name"]) for row in shown["drafters"]]


@pytest.fixture
def root(tmp_path):
    shutil.copytree(drafter_folder("dpace"), tmp_path / "root" / "dpace")
    return tmp_path / "root"


@pytest.fixture
def server(root):
    return Server(root)


def error_of(response):
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == response.status_code
    assert error["message"].isprintable()
    return error["message"]


async def test_the_drafters_are_shown_to_readers(server):
    response = await server.ask("GET", "/dpace/drafters", READ)
    assert response.status_code == 200
    assert response.json()["mode"] == "shadow"
    first = response.json()["drafters"][0]
    assert (first["role"], first["name"], first["slot"]) == ("champion", "dflash", 0)
    assert str(drafter_folder("dflash")) not in response.text


async def test_only_the_admin_key_shows_the_salt_of_the_draws(root):
    for keys, reader in (((READ,), READ), ((), None), ((), "wrong"), ((), "Admin-Key")):
        server = Server(root, keys=keys)
        shown = await server.ask("GET", "/dpace/drafters", reader)
        assert shown.json()["draw_salt"] is None
        assert SALT not in shown.text
        assert (await server.ask("GET", "/dpace/drafters", ADMIN)).json()["draw_salt"] == SALT
    keyless = Server(root, keys=(), admin_key=None)
    for key in (None, "", ADMIN):
        assert (await keyless.ask("GET", "/dpace/drafters", key)).json()["draw_salt"] is None


async def test_a_drafter_is_swapped_in_and_a_challenger_compared_promoted_and_dropped(server):
    response = await server.ask("PUT", "/dpace/drafters/challenger", json={"folder": "dpace"})
    assert response.status_code == 200
    assert response.json()["operation"] == "challenge"
    assert await server.names() == [("champion", "dflash"), ("challenger", "dpace")]
    response = await server.ask("DELETE", "/dpace/drafters/challenger", params={"name": "dpace"})
    assert response.json()["drafter"]["name"] == "dpace"
    assert await server.names() == [("champion", "dflash"), ("retired", "dpace")]
    await server.ask("PUT", "/dpace/drafters/challenger", json={"folder": "dpace"})
    response = await server.ask("POST", "/dpace/promote")
    assert response.json()["former_champion"]["name"] == "dflash"
    response = await server.ask("PUT", "/dpace/drafters/champion", json={"folder": "dpace"})
    assert response.json()["former_champion"] is None
    assert await server.names() == [("retired", "dflash"), ("champion", "dpace")]


async def test_a_challenger_that_was_replaced_under_its_name_is_neither_promoted_nor_dropped(
    server, root
):
    shutil.copytree(drafter_folder("dflash"), root / "other")
    retrained = shutil.copytree(root / "dpace", root / "retrained")
    _change_one_byte(retrained / "model.safetensors")
    seen = {"name": "dpace", "revision": describe(root / "dpace").revision}
    # Another one takes its slot, so that the server forgets it, and a third one its name.
    for folder, name in (("dpace", "dpace"), ("other", "other"), ("retrained", "dpace")):
        await server.ask("DELETE", "/dpace/drafters/challenger")
        body = {"folder": folder, "name": name}
        loaded = await server.ask("PUT", "/dpace/drafters/challenger", json=body)
        assert loaded.status_code == 200
    before = await server.names()
    assert before == [("champion", "dflash"), ("challenger", "dpace")]
    for response in (
        await server.ask("POST", "/dpace/promote", json=seen),
        await server.ask("DELETE", "/dpace/drafters/challenger", params=seen),
    ):
        assert response.status_code == 409
        assert "the revision of dpace must start with" in error_of(response)
    assert await server.names() == before
    now = {"name": "dpace", "revision": describe(retrained).revision[:4]}
    assert (await server.ask("POST", "/dpace/promote", json=now)).status_code == 200


def _change_one_byte(file):
    content = bytearray(file.read_bytes())
    content[-4] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(("method", "path"), CHANGES)
@pytest.mark.parametrize("key", [None, "", READ, "wrong", "admin-key2", "Admin-Key"])
async def test_only_the_admin_key_changes_anything(server, method, path, key):
    response = await server.ask(method, path, key, json={"folder": "dpace"})
    assert response.status_code == 401
    assert "admin key" in error_of(response)
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert ADMIN not in response.text
    assert await server.names() == [("champion", "dflash"), ("empty", None)]


@pytest.mark.parametrize(
    ("change", "operation"),
    list(zip(CHANGES, ["swap", "challenge", "drop", "promote"], strict=True)),
)
@pytest.mark.parametrize("root_path", ["", "/behind"])
async def test_a_wrong_admin_key_is_counted_for_its_operation(root, change, operation, root_path):
    server = Server(root, root_path=root_path)
    method, path = change
    await server.ask(method, f"{root_path}{path}", "wrong")
    assert server.results == [(operation, "unauthorized")]


async def test_a_wrong_admin_key_is_counted_only_where_there_is_a_route(server):
    for method, path in (
        ("PATCH", "/dpace/promote"),
        ("POST", "/dpace/drafters/champion"),
        ("PUT", "/dpace/none"),
        ("POST", "/dpace/promote/"),
    ):
        assert (await server.ask(method, path, "wrong")).status_code == 401
    assert (await server.ask("GET", "/dpace/drafters", "wrong")).status_code == 401
    server.app.state.dpace_operations = None  # a server that drafts nothing
    assert (await server.ask("POST", "/dpace/promote", "wrong")).status_code == 401
    assert server.results == []


@pytest.mark.parametrize(("method", "path"), CHANGES)
@pytest.mark.parametrize("keys", [(), (READ,)])
async def test_without_an_admin_key_changes_are_refused_to_all(root, method, path, keys):
    server = Server(root, keys=keys, admin_key=None)
    for key in (None, READ, "None", ""):
        response = await server.ask(method, path, key, json={"folder": "dpace"})
        assert response.status_code == 403
        error_of(response)


async def test_the_admin_key_opens_the_reading_routes_too(server):
    for path in ("/dpace/drafters", "/dpace/acceptance"):
        assert (await server.ask("GET", path, ADMIN)).status_code == 200
        assert (await server.ask("GET", path, READ)).status_code == 200
        assert (await server.ask("GET", path, None)).status_code == 401
        assert (await server.ask("GET", path, "wrong")).status_code == 401


async def test_without_api_keys_reading_is_open_and_changing_is_not(root):
    server = Server(root, keys=())
    assert (await server.ask("GET", "/dpace/drafters", None)).status_code == 200
    assert (await server.ask("POST", "/dpace/promote", None)).status_code == 401


def test_an_admin_key_that_is_an_api_key_is_a_mistake(root):
    with pytest.raises(ConfigError, match="must not be an API key") as caught:
        Server(root, keys=("x", ADMIN))
    assert ADMIN not in str(caught.value)


@pytest.mark.parametrize("root_path", ["/", "/d", "/dpace", "/behind"])
async def test_a_root_path_or_a_forged_host_does_not_open_the_changes(root, root_path):
    server = Server(root, root_path=root_path)
    for prefix in ("", root_path.rstrip("/")):
        response = await server.ask("POST", f"{prefix}/dpace/promote", None)
        assert response.status_code == 401
    transport = httpx2.ASGITransport(app=server.app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        forged = await client.post("/dpace/promote", headers={"host": "test/health?x="})
    assert forged.status_code == 401


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "folder: Field required"),
        (b"{}", "folder: Field required"),
        (b"[]", "the body: "),
        (b"not json", "the body: Invalid JSON"),
        (b"[" * 60_000, "the body: Invalid JSON"),
        (b'{"folder": 3}', "folder: Input should be a valid string"),
        (b'{"folder": "a\\nb"}', "folder: "),
        (b'{"folder": "dpace", "name": "<b>"}', "name: String should match pattern"),
        (b'{"folder": "dpace", "\\n": 1}', "only these keys are known: folder, name, revision"),
    ],
)
async def test_a_malformed_body_is_422_in_one_line(server, body, text):
    response = await server.ask("PUT", "/dpace/drafters/champion", content=body)
    assert response.status_code == 422
    assert error_of(response).startswith(text)


async def test_a_malformed_choice_is_422(server):
    response = await server.ask("DELETE", "/dpace/drafters/challenger", params={"nam": "a"})
    assert response.status_code == 422
    assert "only these keys are known: name, revision" in error_of(response)
    for choice in ({"name": "a b"}, {"revision": ""}, {"revision": "XYZ"}, {"revision": 31}):
        response = await server.ask("POST", "/dpace/promote", json=choice)
        assert response.status_code == 422


async def test_a_body_is_cut_off_while_it_is_read(server):
    given = 0

    async def endless():
        nonlocal given
        while given < 10_000_000:
            given += 1024
            yield b" " * 1024

    sent = []

    async def receive():
        chunk = await anext(chunks, b"")
        return {"type": "http.request", "body": chunk, "more_body": bool(chunk)}

    async def send(message):
        sent.append(message)

    chunks = endless()
    scope = {
        "type": "http",
        "method": "PUT",
        "path": "/dpace/drafters/champion",
        "raw_path": b"/dpace/drafters/champion",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer admin-key"), (b"content-length", b"10")],
        "app": server.app,
    }
    await server.app(scope, receive, send)
    assert sent[0]["status"] == 413
    assert given <= 66 * 1024


async def test_a_body_at_the_limit_is_read(server):
    body = json.dumps({"folder": "dpace"}).encode().ljust(64 * 1024)
    response = await server.ask("PUT", "/dpace/drafters/champion", content=body)
    assert response.status_code == 200
    response = await server.ask("PUT", "/dpace/drafters/champion", content=body + b" ")
    assert response.status_code == 413
    assert error_of(response).startswith("the body must have at most 65536 bytes")


async def test_a_client_that_leaves_while_it_sends_changes_nothing(server):
    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        pass

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/dpace/promote",
        "raw_path": b"/dpace/promote",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer admin-key")],
        "app": server.app,
    }
    await server.app(scope, receive, send)
    assert await server.names() == [("champion", "dflash"), ("empty", None)]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/dpace/drafters/champion", {"folder": "../outside"}, 403),
        ("PUT", "/dpace/drafters/champion", {"folder": "absent"}, 404),
        ("PUT", "/dpace/drafters/champion", {"folder": "dpace", "revision": "0"}, 422),
        ("PUT", "/dpace/drafters/challenger", {"folder": "dpace", "name": "dflash"}, 409),
        ("POST", "/dpace/promote", {"name": "absent"}, 404),
    ],
)
async def test_a_refusal_has_its_status_and_the_openai_shape(server, method, path, body, status):
    response = await server.ask(method, path, json=body)
    assert response.status_code == status
    error_of(response)


async def test_an_engine_that_cannot_load_answers_with_its_status(server):
    server.engine.error = SwapError("no memory.", status=HTTPStatus.INTERNAL_SERVER_ERROR)
    response = await server.ask("PUT", "/dpace/drafters/champion", json={"folder": "dpace"})
    assert response.status_code == 500
    assert error_of(response) == "no memory."


async def test_of_two_admins_at_once_one_is_told_to_wait(server):
    server.engine.may_end.clear()
    first = asyncio.create_task(
        server.ask("PUT", "/dpace/drafters/champion", json={"folder": "dpace"})
    )
    await server.engine.has_begun.wait()
    shown = (await server.ask("GET", "/dpace/drafters")).json()
    assert shown["drafters"][1]["is_loading"]
    second = await server.ask("PUT", "/dpace/drafters/challenger", json={"folder": "dpace"})
    assert second.status_code == 409
    assert "under way" in error_of(second)
    server.engine.may_end.set()
    assert (await first).status_code == 200


async def test_a_request_that_is_cancelled_leaves_no_slot_reserved(server):
    server.engine.may_end.clear()
    leaving = asyncio.create_task(
        server.ask("PUT", "/dpace/drafters/champion", json={"folder": "dpace"})
    )
    await server.engine.has_begun.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    server.engine.may_end.set()
    await server.has_ended.wait()
    assert await server.names() == [("retired", "dflash"), ("champion", "dpace")]


async def test_a_server_without_drafters_says_so(server):
    server.app.state.dpace_operations = None
    assert (await server.ask("GET", "/dpace/drafters")).json() == {"drafters": []}
    response = await server.ask("POST", "/dpace/promote")
    assert response.status_code == 403
    assert "drafts nothing" in error_of(response)
