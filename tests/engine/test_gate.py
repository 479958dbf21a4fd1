"""A real server behind its gate: keys from files, two listeners, routes, forged hosts, limits."""

import contextlib
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from dpace_serve.demo import bundle

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

API, OTHER_API, ADMIN, METRICS = (
    "api-key-0001",
    "api-key-0002",
    "admin-key-0003",
    "metrics-key-0004",
)
MOST_ANSWERS = 4


class Guarded:
    """The server, its two addresses and its log."""

    def __init__(self, url, observed, process, log):
        self.url, self.observed, self.process, self.log = url, observed, process, log

    def ask(self, method, path, key=None, *, base=None, **options):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with httpx2.Client(base_url=base or self.url, timeout=60, trust_env=False) as client:
            return client.request(method, path, headers=headers, **options)

    def complete(self, key=API, **values):
        body = {"model": "tiny", "prompt": "The", "max_tokens": 4, "temperature": 0, **values}
        return self.ask("POST", "/v1/completions", key, json=body)

    def raw(self, *lines: bytes) -> bytes:
        """What comes back for these lines of a request, as they are."""
        address = self.url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1])), timeout=30) as connection:
            connection.sendall(b"\r\n".join([*lines, b"Connection: close", b"", b""]))
            answer = bytearray()
            with contextlib.suppress(ConnectionResetError):
                while chunk := connection.recv(65536):
                    answer += chunk
        return bytes(answer)


@pytest.fixture(scope="module")
def guarded(serve, tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    files = {}
    for name, content in {
        "api": f"{API}\n{OTHER_API}\n",
        "admin": ADMIN,
        "metrics": METRICS,
    }.items():
        files[name] = folder / name
        files[name].write_text(content)
        files[name].chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        observed = listener.getsockname()[1]
    arguments = [
        str(bundle.target_folder()), "--drafter", str(bundle.drafter_folder("dpace")),
        "--set", "dtype=float32", "--set", "eager=true", "--set", "served_model_name=tiny",
        "--set", f"api_key_file={files['api']}", "--set", f"admin_key_file={files['admin']}",
        "--set", f"metrics_key_file={files['metrics']}", "--set", f"observation.port={observed}",
        "--set", f"limits.max_concurrent_answers={MOST_ANSWERS}",
        "--set", "limits.max_body_kilobytes=20", "--set", "limits.max_choices=2",
        "--", "--max-model-len", "512", "--max-num-seqs", "8",
    ]  # fmt: skip
    with serve(arguments) as (process, url):
        log = next(iter(tmp_path_factory.getbasetemp().glob("server*/log.txt")), None)
        yield Guarded(url, f"http://127.0.0.1:{observed}", process, log)


def test_users_are_served_with_each_of_the_keys_of_the_file(guarded):
    for key in (API, OTHER_API):
        assert guarded.complete(key).status_code == 200
        assert guarded.ask("GET", "/v1/models", key).status_code == 200
    for key in (None, ADMIN, METRICS, "wrong"):
        assert guarded.complete(key).status_code == 401
        assert guarded.ask("GET", "/v1/models", key).status_code == 401
    assert guarded.ask("GET", "/health").status_code == 200


def test_observation_has_a_listener_of_its_own(guarded):
    for path, key in {
        "/metrics": METRICS,
        "/dpace/acceptance": API,
        "/dpace/drafters": ADMIN,
    }.items():
        assert guarded.ask("GET", path, key).status_code == 404
        assert guarded.ask("GET", path, key, base=guarded.observed).status_code == 200
        assert guarded.ask("GET", path, base=guarded.observed).status_code == 401
    assert guarded.ask("GET", "/metrics", API, base=guarded.observed).status_code == 401
    assert guarded.ask("GET", "/v1/models", API, base=guarded.observed).status_code == 404
    assert guarded.ask("GET", "/health", base=guarded.observed).status_code == 200
    page = guarded.ask("GET", "/dpace/", base=guarded.observed)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")


@pytest.mark.parametrize("key", [None, API, ADMIN, METRICS])
def test_every_other_route_that_the_engine_has_is_shut(guarded, key):
    paths = engine_paths()
    assert {"/invocations", "/tokenize", "/load", "/ping", "/docs", "/openapi.json"} <= paths
    for path in sorted(paths):
        for method in ("GET", "POST"):
            response = guarded.ask(method, path, key)
            assert response.status_code == 404, (method, path)
            assert "set-cookie" not in response.headers


def engine_paths():
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    app = build_app(make_arg_parser(FlexibleArgumentParser()).parse_args([]), ("generate",))
    open_paths = {"/health", "/metrics", "/version", "/v1/models", "/v1/completions"}
    open_paths.add("/v1/chat/completions")
    paths = {route.path for route in app.routes if "{" not in route.path}
    return {path for path in paths if not path.startswith("/dpace")} - open_paths


@pytest.mark.parametrize(
    "host",
    [
        b"127.0.0.1/health", b"127.0.0.1/health?", b"127.0.0.1#/health", b"/health", b"/health#",
        b"x@127.0.0.1/health?", b"127.0.0.1:80/health?x=", b"a\\health", b"127.0.0.1/v1/../health",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "path", [b"/v1/models", b"/invocations", b"/metrics", b"/dpace/acceptance"]
)
def test_a_forged_host_opens_nothing_cve_2026_48746(guarded, host, path):
    answer = guarded.raw(b"GET " + path + b" HTTP/1.1", b"Host: " + host)
    assert answer.split(b" ")[1] in (b"400", b"401", b"404")


@pytest.mark.parametrize(
    "target",
    [
        b"//v1/models", b"/v1//models", b"/./v1/models", b"/x/../v1/models", b"/v1/%6dodels",
        b"/%76%31/models", b"/v1%2Fmodels", b"/v1/models%00", b"/v1/models;a=b", b"/v1/models/",
        b"http://127.0.0.1/v1/models", b"http://127.0.0.1/health/../v1/models", b"*",
        b"/health/../invocations", b"/health%2f..%2finvocations", b"/v1/models?x=/health",
        b"/v1/models#/health", b"\\v1\\models",
    ],
)  # fmt: skip
def test_no_way_of_writing_a_path_gets_in_without_a_key(guarded, target):
    for method in (b"GET", b"OPTIONS", b"HEAD", b"POST"):
        answer = guarded.raw(method + b" " + target + b" HTTP/1.1", b"Host: 127.0.0.1")
        assert answer.split(b" ")[1] in (b"400", b"401", b"404", b"405")
        assert b'"id":"tiny"' not in answer


@pytest.mark.parametrize(
    "lines",
    [
        (b"Host: 127.0.0.1", b"Upgrade: websocket", b"Connection: Upgrade",
         b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Version: 13"),
        (b"Host: 127.0.0.1", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"),
    ],
)  # fmt: skip
def test_an_upgrade_is_no_way_around(guarded, lines):
    for path in (b"/v1/realtime", b"/v1/models"):
        answer = guarded.raw(b"GET " + path + b" HTTP/1.1", *lines)
        assert answer.split(b" ")[1] in (b"400", b"401", b"403", b"404")


def test_two_lengths_or_a_smuggled_request_do_not_reach_the_engine(guarded):
    inner = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = guarded.raw(
        b"POST /v1/completions HTTP/1.1", b"Host: 127.0.0.1", b"Content-Type: application/json",
        b"Content-Length: 0", b"Transfer-Encoding: chunked", b"", b"0", b"", inner,
    )  # fmt: skip
    assert b'"id":"tiny"' not in answer


def test_cors_is_off(guarded):
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for method, path in (("OPTIONS", "/v1/completions"), ("GET", "/health")):
        with httpx2.Client(base_url=guarded.url, trust_env=False) as client:
            response = client.request(method, path, headers=headers)
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n": 3}, "n must be at most 2"),
        ({"n": 16384}, "n must be at most 2"),  # CVE-2026-34756
        ({"n": "9"}, "n must be a whole number"),
        ({"max_tokens": 10**9}, "max_tokens must be at most"),
        ({"logprobs": 21}, "logprobs must be at most 20"),
        ({"prompt_logprobs": -1}, "prompt_logprobs must be from 0"),
        ({"stop": ["a"] * 17}, "entries of stop must be at most 16"),
        ({"prompt": ["a"] * 17}, "prompts in prompt must be at most 16"),
        ({"prompt_embeds": "AAAA"}, "prompt_embeds is not open"),
        ({"kv_transfer_params": {}}, "kv_transfer_params is not open"),
    ],
)
def test_limits_hold(guarded, values, words):
    response = guarded.complete(**values)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(words)


def test_images_are_refused_before_they_are_fetched_cve_2026_22773(guarded):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(1)
        port = listener.getsockname()[1]
        image = {"type": "image_url", "image_url": {"url": f"http://127.0.0.1:{port}/x.png"}}
        body = {"model": "tiny", "messages": [{"role": "user", "content": [image]}]}
        response = guarded.ask("POST", "/v1/chat/completions", API, json=body)
        assert response.json()["error"]["message"].startswith("messages must be text")
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_large_body_is_refused_and_the_connection_ends(guarded):
    response = guarded.complete(prompt="x" * 20_000)
    assert (response.status_code, response.headers["connection"]) == (413, "close")


def test_beyond_its_places_the_server_says_429_and_serves_again(guarded):
    barrier = threading.Barrier(2 * MOST_ANSWERS)

    def ask(_):
        barrier.wait()
        return guarded.complete(max_tokens=200, ignore_eos=True)

    with ThreadPoolExecutor(2 * MOST_ANSWERS) as pool:
        responses = list(pool.map(ask, range(2 * MOST_ANSWERS)))
    statuses = sorted(response.status_code for response in responses)
    assert statuses == [200] * MOST_ANSWERS + [429] * MOST_ANSWERS
    refused = [response for response in responses if response.status_code == 429]
    assert all(int(response.headers["retry-after"]) >= 1 for response in refused)
    assert {response.json()["error"]["type"] for response in refused} == {"RateLimitError"}
    assert guarded.complete().status_code == 200


def test_refusals_are_counted_by_their_reason(guarded):
    before = refused(guarded)
    guarded.complete("wrong")
    guarded.ask("POST", "/invocations")
    guarded.complete(n=9)
    guarded.complete(prompt="x" * 20_000)
    after = refused(guarded)
    grown = {reason: after[reason] - before[reason] for reason in after}
    assert grown == {
        "key": 1, "route": 1, "request": 1, "body": 1, "host": 0, "busy": 0, "draining": 0,
        "deadline": 0,
    }  # fmt: skip


def refused(guarded):
    text = guarded.ask("GET", "/metrics", METRICS, base=guarded.observed).text
    prefix = 'dpace_requests_refused_total{reason="'
    lines = [line.removeprefix(prefix) for line in text.splitlines() if line.startswith(prefix)]
    return {reason: float(value) for reason, value in (line.split('"} ') for line in lines)}


def test_no_key_and_no_prompt_is_in_the_log(guarded):
    guarded.complete(prompt="a-secret-prompt")
    guarded.complete("a-wrong-key")
    text = guarded.log.read_text(errors="replace")
    assert "startup complete" in text
    for secret in (API, OTHER_API, ADMIN, METRICS, "a-secret-prompt", "a-wrong-key"):
        assert secret not in text


def test_errors_of_the_engine_show_no_stack(guarded):
    for values in ({"temperature": "hot"}, {"model": "other"}, {"prompt": [[]]}, {"top_p": 7}):
        response = guarded.complete(**values)
        assert 400 <= response.status_code < 500
        assert "Traceback" not in json.dumps(response.json())
