"""What is open, to whom, and that nothing else is there."""

import pytest

from dpace_serve.errors import ConfigError
from dpace_serve.gate.route_table import CHANGING_THE_TARGET, RouteTable

from .conftest import ADMIN, API, METRICS, message, raw_status  # noqa: TID252 - tests have no package

JSON = {"content": b"{}", "headers": {"Content-Type": "application/json"}}
OPEN = [
    ("GET", "/health", {}),
    ("GET", "/version", {}),
    ("GET", "/v1/models", {}),
    ("POST", "/v1/chat/completions", JSON),
    ("POST", "/v1/completions", JSON),
    ("GET", "/metrics", {}),
]
# Who gets through, of a server that has all three keys.
LET_IN = {
    "/health": {None, API, ADMIN, METRICS, "wrong", ""},
    "/version": {API},
    "/v1/models": {API},
    "/v1/chat/completions": {API},
    "/v1/completions": {API},
    "/metrics": {METRICS, ADMIN},
}
# Routes of vLLM 0.32 and SGLang 0.5.23 that their own key check leaves open, or that do harm.
CLOSED = [
    ("POST", "/invocations"), ("GET", "/ping"), ("POST", "/ping"), ("GET", "/load"),
    ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/kv_event_sources"),
    ("POST", "/tokenize"), ("POST", "/detokenize"), ("POST", "/scale_elastic_ep"),
    ("POST", "/generative_scoring"), ("POST", "/pooling"), ("POST", "/score"),
    ("POST", "/start_profile"), ("POST", "/collective_rpc"), ("POST", "/sleep"),
    ("POST", "/wake_up"), ("GET", "/server_info"), ("POST", "/reset_prefix_cache"),
    ("POST", "/pause"), ("POST", "/resume"), ("POST", "/abort_requests"),
    ("POST", "/update_weights"), ("POST", "/start_weight_update"),
    ("POST", "/v1/responses"), ("POST", "/v1/embeddings"), ("POST", "/v1/load_lora_adapter"),
    ("POST", "/generate"), ("POST", "/update_weights_from_disk"), ("POST", "/flush_cache"),
    ("GET", "/get_server_info"), ("POST", "/open_session"), ("GET", "/"), ("PUT", "/"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "options"), OPEN)
@pytest.mark.parametrize("key", [None, API, ADMIN, METRICS, "wrong", ""])
async def test_each_open_route_lets_its_keys_in_and_no_other(gated, method, path, options, key):
    server = gated()
    response = await server.ask(method, path, key, **options)
    if key in LET_IN[path]:
        assert (response.status_code, len(server.reached), server.refused) == (200, 1, [])
    else:
        assert (response.status_code, server.reached, server.refused) == (401, [], ["key"])
        assert response.headers["www-authenticate"] == "Bearer"
        assert "Authorization: Bearer" in message(response)


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize("key", [None, API, ADMIN])
async def test_everything_else_is_not_there_whatever_the_key(gated, method, path, key):
    server = gated()
    response = await server.ask(method, path, key)
    assert (response.status_code, server.reached, server.refused) == (404, [], ["route"])
    assert path == "/" or path not in message(response)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "GET"])
async def test_another_method_of_an_open_path_is_refused(gated, method):
    server = gated()
    response = await server.ask(method, "/v1/completions", API)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert server.reached == []


@pytest.mark.parametrize(
    "path",
    [
        "", "//v1/models", "/v1//models", "/v1/models/", "/V1/models", "/v1/models;x", "v1/models",
        "/v1/./models", "/x/../v1/models", "/./v1/models", "/v1/models\x00", "/v1/models ",
        "/v1/models/../../invocations", "/health/../invocations", "/health/", "/healthx",
        "/health?", "/metricsx", "/metrics/", "/metrics/x", "/v1/models\r\nX:1", "*",
        "/health/..;/invocations", "/dpacex", "/version?/invocations#", "/v1/models%2f",
        "http://localhost/v1/models", "/v1\\models", "\\v1\\models", "/v1/models\t", "/\u2025/v1",
    ],
)  # fmt: skip
async def test_a_path_that_only_looks_open_is_shut(gated, path):
    server = gated(api=())
    assert await raw_status(server.app, path) == 404
    assert server.reached == []


@pytest.mark.parametrize("path", ["/dpace/../invocations", "/dpace/../v1/models", "/dpace//../x"])
async def test_nothing_of_the_engine_is_reached_below_our_prefix(gated, path):
    # The guard of /dpace lets its reader in, and the router looks for that very path: none has it.
    server = gated()
    for method in ("GET", "POST", "PUT"):
        assert await raw_status(server.app, path, method=method) in (401, 404)
    assert server.reached == []


@pytest.mark.parametrize(
    "host",
    [
        "test/health", "test/health?", "/health", "test#/health", "test?/health", "x@test/health",
        "test:80/health?x=", "test\\health", "", "test, test", "[::1]/health",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/invocations", "/dpace/acceptance"])
async def test_a_forged_host_opens_nothing_cve_2026_48746(gated, host, path):
    # The engine's own check looked at the path of a URL that it built from this header.
    server = gated()
    response = await server.ask("GET", path, headers={"Host": host})
    assert response.status_code in (401, 404)
    assert server.reached == []


@pytest.mark.parametrize("root_path", ["/behind", "/v1", "/health", "/metrics"])
async def test_a_root_path_opens_nothing(gated, root_path):
    server = gated(root_path=root_path)
    for path in ("/invocations", f"{root_path}/invocations", f"{root_path}/v1/models"):
        assert (await server.ask("GET", path)).status_code in (401, 404)
    assert server.reached == []
    assert (await server.ask("GET", f"{root_path}/v1/models", API)).status_code == 200


async def test_what_the_operator_opens_is_open_with_an_api_key(gated):
    server = gated(open_routes=("POST /tokenize",))
    assert (await server.ask("POST", "/tokenize", **JSON)).status_code == 401
    assert (await server.ask("POST", "/tokenize", API, **JSON)).status_code == 200
    assert (await server.ask("POST", "/detokenize", API, **JSON)).status_code == 404
    assert (await server.ask("GET", "/tokenize", API)).status_code == 405


def test_opening_a_route_that_is_open_does_not_take_its_key_away():
    for route in ("GET /metrics", "GET /health", "POST /v1/completions"):
        method, path = route.split()
        assert RouteTable([route]).methods(path)[method] == RouteTable([]).methods(path)[method]


@pytest.mark.parametrize("path", sorted(CHANGING_THE_TARGET))
def test_what_changes_the_target_cannot_be_opened(path):
    for spelt in (path, f"{path}/"):
        with pytest.raises(ConfigError, match="changes more than a drafter"):
            RouteTable([f"POST {spelt}"])


async def test_without_keys_the_engine_is_open_and_nothing_more(gated):
    server = gated(api=(), admin=None, metrics=None)
    for method, path, options in OPEN:
        assert (await server.ask(method, path, **options)).status_code == 200
    assert (await server.ask("POST", "/invocations")).status_code == 404
    assert (await server.ask("PUT", "/dpace/drafters/champion")).status_code == 403


async def test_api_keys_open_the_metrics_where_they_have_no_key_of_their_own(gated):
    server = gated(metrics=None)
    for key, status in {None: 401, "wrong": 401, API: 200, ADMIN: 200}.items():
        assert (await server.ask("GET", "/metrics", key)).status_code == status


async def test_a_metrics_key_guards_them_where_everyone_may_use_the_engine(gated):
    server = gated(api=())
    for key, status in {None: 401, API: 401, METRICS: 200, ADMIN: 200}.items():
        assert (await server.ask("GET", "/metrics", key)).status_code == status


async def test_each_of_several_api_keys_opens(gated):
    server = gated(api=("one", "two"))
    for key, status in {"one": 200, "two": 200, "three": 401, "one two": 401}.items():
        assert (await server.ask("GET", "/v1/models", key)).status_code == status


@pytest.mark.parametrize(
    "authorization",
    [API, f"Basic {API}", f"Bearer  {API}", f"Bearer {API} ", f"Bearer {API},", "Bearer", "Bearer ",
     f"Bearer {API.upper()}", f"Bearer\t{API}", f"Bearer {API[:-1]}", f"Bearer {API}x"],
)  # fmt: skip
async def test_a_key_that_is_nearly_right_is_wrong(gated, authorization):
    server = gated()
    raw = (b"authorization", authorization.encode())
    assert await raw_status(server.app, "/v1/models", raw) == 401


async def test_the_scheme_is_read_as_http_says(gated):
    raw = (b"authorization", f"bEARER {API}".encode())
    assert await raw_status(gated().app, "/v1/models", raw) == 200


async def test_a_websocket_is_closed_before_anybody_accepts_it(gated):
    server, sent = gated(), []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(one):
        sent.append(one)

    scope = {"type": "websocket", "path": "/v1/realtime", "headers": [], "query_string": b""}
    await server.app(scope, receive, send)
    assert [one["type"] for one in sent] == ["websocket.close"]
    assert server.refused == ["route"]
