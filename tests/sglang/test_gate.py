"""The gate before the real server: who comes in, and with how much."""

import json
import socket

import httpx2
import pytest

from .conftest import ADMIN_KEY, API_KEY, METRICS_KEY  # noqa: TID252 - tests have no package

pytestmark = [pytest.mark.sglang]

PROMPT = "SELECT name FROM"
# SGLang's own; its key check lets the first four through without a key.
CLOSED = [
    ("GET", "/health_generate/"), ("GET", "/ready"), ("GET", "/metrics/"), ("OPTIONS", "/generate"),
    ("GET", "/model_info"), ("GET", "/get_server_info"), ("GET", "/docs"), ("GET", "/openapi.json"),
    ("POST", "/freeze_gc"), ("GET", "/freeze_gc"), ("POST", "/flush_cache"), ("GET", "/v1/loads"),
    ("POST", "/set_internal_state"), ("POST", "/pause_generation"), ("POST", "/abort_request"),
    ("POST", "/release_memory_occupation"), ("POST", "/weights_checker"), ("POST", "/encode"),
    ("POST", "/configure_logging"), ("POST", "/invocations"), ("POST", "/vertex_generate"),
    ("POST", "/api/generate"), ("POST", "/v1/messages"), ("POST", "/v1/responses"),
    ("POST", "/tokenize"), ("POST", "/load_lora_adapter"), ("GET", "/start_profile"), ("GET", "/"),
    ("GET", "/ping"),
]  # fmt: skip
FORGED_HOSTS = [
    "127.0.0.1/health?", "127.0.0.1/health#", "127.0.0.1/metrics?x=", "x@127.0.0.1/health?",
    "127.0.0.1:80/ready?", "/health", "",
]  # fmt: skip


def raw_answer(served, path, host, key=None, method="GET"):
    """The first bytes of the answer to a request that no client would send."""
    port = served.client.base_url.port
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    request = (
        f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{authorization}Connection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request.encode("latin-1"))
        return connection.makefile("rb").read()


@pytest.mark.parametrize("key", [None, API_KEY, ADMIN_KEY, METRICS_KEY])
def test_no_key_opens_what_is_shut(served, key):
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    url = str(served.client.base_url)
    with httpx2.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as client:
        for method, path in CLOSED:
            status = client.request(method, path, json={}).status_code
            assert status == (405 if path == "/generate" else 404), (method, path)


@pytest.mark.parametrize("host", FORGED_HOSTS)
def test_a_forged_host_opens_nothing_cve_2026_48746(served, host):
    # SGLang's own key check looks at the path of a URL that it builds from this header.
    for path, statuses in [
        ("/v1/models", (b"400", b"401")), ("/server_info", (b"400", b"401")),
        ("/metrics", (b"400", b"401")), ("/dpace/acceptance", (b"400", b"401")),
        ("/model_info", (b"400", b"404")), ("/freeze_gc", (b"400", b"404")),
    ]:  # fmt: skip
        assert raw_answer(served, path, host).split()[1] in statuses
    assert raw_answer(served, "/v1/models", "localhost", API_KEY).split()[1] == b"200"


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1/model_info", "//model_info", "/health/../model_info", "/%6dodel_info",
     "/v1/models/../../model_info", "/model_info?x=/health", "/v1/models;/../model_info"],
)  # fmt: skip
def test_no_spelling_of_a_path_opens_what_is_shut(served, target):
    answer = raw_answer(served, target, "127.0.0.1", API_KEY)
    assert answer.split()[1] in (b"400", b"404")
    assert b"model_path" not in answer


def test_the_metrics_have_a_key_of_their_own(served):
    for key, status in {METRICS_KEY: 200, ADMIN_KEY: 200, API_KEY: 401, "x": 401}.items():
        headers = {"Authorization": f"Bearer {key}"}
        assert served.client.get("/metrics", headers=headers).status_code == status
    headers = {"Authorization": f"Bearer {METRICS_KEY}"}
    assert served.client.get("/v1/models", headers=headers).status_code == 401
    assert served.client.get("/dpace/acceptance", headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"n": 9}, "n must be at most 8"),
        ({"n": "2"}, "n must be a whole number"),
        ({"max_tokens": 32_769}, "max_tokens must be at most 32768"),
        ({"stop": ["x"] * 17}, "entries of stop must be at most 16"),
        ({"logprobs": 21}, "logprobs must be at most 20"),
        ({"regex": "a" * 64_001}, "schemas, grammars and tools must be at most 64000"),
        ({"stop_regex": "(a|a)*b"}, "stop_regex is not open"),
        ({"rid": "0"}, "rid is not open"),
        ({"bootstrap_host": "10.0.0.1"}, "bootstrap_host is not open"),
        ({"custom_logit_processor": "{}"}, "custom_logit_processor is not open"),
        ({"prompt": ["x"] * 57}, "prompts in prompt must be at most 56"),
    ],
)
def test_a_request_may_ask_for_so_much_and_no_more(served, values, said):
    before = served.acceptance()
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 4} | values
    answer = served.client.post("/v1/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(said)
    after = served.acceptance()
    assert (after["excluded"], after["drafters"][0]) == (before["excluded"], before["drafters"][0])


def test_a_header_cannot_name_a_request_or_send_it_elsewhere(served):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    for name, value in [("X-Override-Rid", "0"), ("X-Override-Bootstrap-Port", "no-number"),
                        ("X-Data-Parallel-Rank", "no-number")]:  # fmt: skip
        answer = served.client.post("/v1/chat/completions", json=body, headers={name: value})
        assert answer.status_code == 200
        assert answer.json()["id"] != "0"


def test_refusals_are_counted_by_their_reason(served):
    def counts():
        found = served.samples()["dpace_requests_refused_total"]
        return {sample.labels["reason"]: sample.value for sample in found}

    before = counts()
    served.client.get("/docs")
    served.client.get("/v1/models", headers={"Authorization": "Bearer x"})
    served.client.post("/v1/completions", json={"n": 99})
    served.client.post("/v1/completions", content=b"{", headers={"Content-Type": "text/plain"})
    after = counts()
    assert {reason: after[reason] - before[reason] for reason in after} == {
        "host": 0, "route": 1, "key": 1, "request": 1, "body": 1, "busy": 0, "draining": 0,
        "deadline": 0,
    }  # fmt: skip


def test_the_log_has_no_key_and_sglang_tells_none(served):
    log = served.process.log.read_text()
    assert "server_args=" in log
    told = json.dumps(served.client.get("/server_info").json())
    for key in (API_KEY, ADMIN_KEY, METRICS_KEY):
        assert key not in log
        assert key not in told


def test_its_document_names_what_is_open_and_nothing_of_the_engine_beside_it(served):
    document = served.client.get("/dpace/openapi.json").json()
    assert {"/v1/completions", "/v1/chat/completions", "/dpace/acceptance"} <= set(
        document["paths"]
    )
    closed = {path for _, path in CLOSED}
    assert not closed & set(document["paths"])
