"""Servers with every door shut that there is, and one without a drafter."""

import ssl
import subprocess
import sys
import time

import httpx2
import pytest

from dpace_serve.demo import bundle
from dpace_serve.demo.server_process import free_port

from .conftest import (  # noqa: TID252 - tests have no package
    API_KEY,
    METRICS_KEY,
    OPENED,
    START_TIMEOUT_SECONDS,
)

pytestmark = [pytest.mark.sglang]

PROMPT = "SELECT name FROM"


@pytest.fixture(scope="module")
def hardened(serve, key_file, tmp_path_factory):
    """A server as closed as can be, with SGLang's own warm-up."""
    certificate, key = self_signed(tmp_path_factory.mktemp("tls"))
    observation = free_port()
    options = (
        "--set", f"api_key_file={key_file('one-user', 'another-user')}",
        "--set", f"metrics_key_file={key_file(METRICS_KEY)}",
        "--set", f"observation={{host: 127.0.0.1, port: {observation}}}",
        "--set", f"tls={{certificate_file: {certificate}, key_file: {key}}}",
        "--set", "allowed_hosts=[llm.example]",
        "--set", "limits.max_concurrent_answers=2",
    )  # fmt: skip
    with serve(*options, engine_options=()) as process:
        port = process.url.rpartition(":")[2]
        trusted = ssl.create_default_context(cafile=certificate)
        main, observed = (
            httpx2.Client(
                base_url=f"https://localhost:{number}",
                headers={"Host": "llm.example", "Authorization": "Bearer one-user"},
                verify=trusted,
                trust_env=False,
                timeout=300,
            )
            for number in (port, observation)
        )
        with main, observed:
            statuses = wait_until_ready(process, main)
            yield process, main, observed, statuses


def self_signed(folder):
    certificate, key = folder / "tls.crt", folder / "tls.key"
    names = "subjectAltName=DNS:localhost,DNS:llm.example"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", names, "-out", certificate, "-keyout", key],
        check=True, capture_output=True,
    )  # fmt: skip
    key.chmod(0o600)
    return certificate, key


def wait_until_ready(process, client):
    """All statuses of /health until the first 200."""
    statuses = []
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while 200 not in statuses:
        process.require_running()
        assert time.monotonic() < deadline
        try:
            statuses.append(client.get("/health").status_code)
        except httpx2.TransportError:
            time.sleep(0.05)
    return statuses


def refused(page):
    prefix = 'dpace_requests_refused_total{reason="'
    lines = [line for line in page.text.splitlines() if line.startswith(prefix)]
    return {line.split('"')[1]: float(line.split()[1]) for line in lines}


def test_sglangs_own_start_comes_through_while_everything_is_shut(hardened):
    process, _, observed, statuses = hardened
    assert set(statuses) == {503, 200}  # not ready before it is warm
    log = process.log.read_text()
    deadline = time.monotonic() + 60
    while "ready to roll" not in log and time.monotonic() < deadline:
        time.sleep(0.2)
        log = process.log.read_text()
    assert "ready to roll" in log
    assert "freeze_gc failed" not in log
    metrics = observed.get("/metrics", headers={"Authorization": f"Bearer {METRICS_KEY}"})
    assert refused(metrics)["route"] == refused(metrics)["key"] == 0
    for secret in ("one-user", "another-user", METRICS_KEY, "Bearer"):
        assert secret not in log
    key = "'api_key': "
    assert {log[at + len(key) :][:4] for at in found(log, key)} == {"None"}


def found(text, part):
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)


def test_each_listener_answers_what_belongs_to_it(hardened):
    _, main, observed, _ = hardened
    for path, on_main, on_observed in [
        ("/health", 200, 200), ("/v1/models", 200, 404), ("/metrics", 404, 401),
        ("/dpace/acceptance", 404, 200), ("/dpace/", 404, 200), ("/server_info", 404, 404),
    ]:  # fmt: skip
        assert (main.get(path).status_code, observed.get(path).status_code) == (
            on_main,
            on_observed,
        )
    change = {"folder": "dpace"}
    assert observed.put("/dpace/drafters/champion", json=change).status_code == 403  # no admin key
    assert main.put("/dpace/drafters/champion", json=change).status_code == 404


def test_keys_of_a_file_open_and_no_others(hardened):
    _, main, observed, _ = hardened
    for key, status in {
        "one-user": 200,
        "another-user": 200,
        METRICS_KEY: 401,
        "None": 401,
    }.items():
        answer = main.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == status
    assert observed.get("/metrics").status_code == 401
    assert main.get("/v1/models", headers={"Host": "localhost"}).status_code == 421


def test_beyond_its_places_the_server_says_429_until_one_is_free(hardened):
    _, main, _, _ = hardened
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 1500, "ignore_eos": True}
    short = {"model": "tiny", "prompt": PROMPT, "max_tokens": 4, "temperature": 0}
    with main.stream("POST", "/v1/completions", json=body | {"n": 2, "stream": True}) as running:
        next(running.iter_lines())
        answer = main.post("/v1/completions", json=short)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert main.get("/v1/models").status_code == 200
    deadline = time.monotonic() + 60
    while (answer := main.post("/v1/completions", json=short)).status_code == 429:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert answer.status_code == 200
    assert main.post("/v1/completions", json=short | {"n": 3}).status_code == 400


def test_plain_http_and_web_pages_get_nothing(hardened):
    process, main, _, _ = hardened
    with pytest.raises(httpx2.TransportError):
        httpx2.get(f"{process.url}/health", trust_env=False)
    page = {"Origin": "https://evil.example"}
    asked = {**page, "Access-Control-Request-Method": "POST"}
    assert main.options("/v1/completions", headers=asked).status_code == 405
    allowed = main.get("/v1/models", headers=page)
    assert not [name for name in allowed.headers if name.startswith("access-control")]


def test_sigterm_ends_both_listeners_after_the_running_answer(hardened):
    process, main, observed, _ = hardened
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 60, "ignore_eos": True, "stream": True}
    with main.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        process.process.terminate()
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert process.process.wait(60) == 0
    for client in (main, observed):
        with pytest.raises(httpx2.TransportError):
            client.get("/health")


def test_a_server_without_a_drafter_has_the_gate_too(serve):
    with serve(*OPENED, drafter=None) as process:
        process.wait_until_healthy(START_TIMEOUT_SECONDS)
        headers = {"Authorization": f"Bearer {API_KEY}"}
        with httpx2.Client(base_url=process.url, trust_env=False, timeout=300) as client:
            assert client.get("/v1/models").status_code == 401
            assert client.get("/model_info", headers=headers).status_code == 404
            body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 4}
            assert client.post("/v1/completions", json=body, headers=headers).status_code == 200
            assert client.get("/dpace/acceptance", headers=headers).json() == {"drafter": None}
            page = client.get("/metrics", headers=headers)
            assert refused(page)["key"] == refused(page)["route"] == 1
            assert "sglang:num_requests_total" in page.text


def test_a_server_that_everyone_could_use_does_not_start():
    command = [
        sys.executable, "-m", "dpace_serve.cli", "serve", str(bundle.target_folder()),
        "--engine", "sglang", "--port", str(free_port()), "--set", "host=0.0.0.0",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode != 0
    assert "must have an API key" in done.stderr.splitlines()[-1]
