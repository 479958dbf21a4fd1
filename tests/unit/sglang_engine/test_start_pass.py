"""SGLang's own start comes through the gate; nobody else does, then or later."""

from contextlib import contextmanager

import pytest
from starlette.responses import PlainTextResponse

from dpace_serve.sglang_engine.start_pass import ROUTES, StartPass, StartPassCheck


class Engine:
    """What SGLang would send, and who answered it."""

    def __init__(self):
        self.key = None
        self.keys = []
        self.start_pass = StartPass(self.lend)
        self.app = StartPassCheck(named("gate"), named("engine"), self.start_pass)

    @contextmanager
    def lend(self, key):
        self.key = key
        self.keys.append(key)
        yield
        self.key = None

    async def start(self):
        await self.app({"type": "lifespan"}, None, None)

    async def answers(self, route, *headers, root_path=""):
        """Who answers: the gate or, past it, the engine."""
        method, path = route.split()
        sent = []

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http", "method": method, "path": path, "root_path": root_path,
            "headers": [(b"host", b"evil.example"), *headers],
        }  # fmt: skip
        await self.app(scope, None, send)
        return sent[1]["body"].decode()


def named(name):
    async def application(scope, receive, send):
        if scope["type"] == "http":
            await PlainTextResponse(name)(scope, receive, send)

    return application


def bearer(key):
    return b"authorization", f"Bearer {key}".encode()


@pytest.fixture
async def engine():
    started = Engine()
    await started.start()
    return started


@pytest.mark.parametrize("route", sorted(ROUTES))
async def test_what_the_start_asks_passes_the_gate_until_it_is_over(engine, route):
    key = engine.key
    assert await engine.answers(route, bearer(key)) == "engine"
    called = []
    engine.start_pass.before(lambda: called.append(engine.key))()
    assert called == [None]  # what is called then finds it over
    assert await engine.answers(route, bearer(key)) == "gate"


@pytest.mark.parametrize(
    "route",
    ["GET /server_info", "POST /flush_cache", "POST /model_info", "GET /generate", "GET /health",
     "POST /generate/", "POST //generate", "POST /update_weights_from_disk", "POST /x/generate"],
)  # fmt: skip
async def test_the_key_opens_nothing_else(engine, route):
    assert await engine.answers(route, bearer(engine.key)) == "gate"


async def test_nothing_but_the_whole_key_opens(engine):
    key = engine.key
    for header in (
        bearer(""), bearer(key[:-1]), bearer(f"{key} "), bearer(key.swapcase()),
        (b"authorization", key.encode()), (b"authorization", f"Basic {key}".encode()),
        (b"authorization", b"Bearer \xff"), (b"x-api-key", key.encode()),
    ):  # fmt: skip
        assert await engine.answers("POST /generate", header) == "gate"
    assert await engine.answers("POST /generate") == "gate"


async def test_a_root_path_is_no_part_of_the_route(engine):
    key = bearer(engine.key)
    assert await engine.answers("POST /behind/generate", key, root_path="/behind") == "engine"
    assert await engine.answers("POST /behind/generate", key) == "gate"


async def test_before_the_start_there_is_no_key():
    assert await Engine().answers("POST /generate", bearer("None")) == "gate"


async def test_every_start_has_a_key_of_its_own_of_256_bits(engine):
    other = Engine()
    await other.start()
    assert engine.key != other.key
    assert len(engine.key) >= 43  # 32 bytes in base64
    assert await other.answers("POST /generate", bearer(engine.key)) == "gate"


async def test_a_websocket_goes_to_the_gate(engine):
    seen = []

    async def gate(scope, receive, send):
        seen.append(scope["type"])

    check = StartPassCheck(gate, named("engine"), engine.start_pass)
    scope = {"type": "websocket", "path": "/generate", "headers": [bearer(engine.key)]}
    await check(scope, None, None)
    assert seen == ["websocket"]
