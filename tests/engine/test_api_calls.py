"""A real server, called with valid, invalid and hostile requests on every route that is open."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests

from dpace_serve.demo import bundle
from tests.api_calls import Caller, Calls, call_all
from tests.hostile_requests import PLAIN, hostile

pytestmark = [pytest.mark.engine, pytest.mark.slow]

NUM_CALLS, NUM_QUICK_CALLS = 10_000, 300
API, ADMIN, METRICS = "a-key-for-tests", "an-admin-key-for-tests", "a-metrics-key-for-tests"
KEYS = {"api_key": API, "admin_key": ADMIN, "metrics_key": METRICS}
NUM_CLIENTS, NUM_ROUNDS = 4, 5
MODEL = "tiny"
MOST_TOKENS = 8
MEMORY_BOUND_BYTES = 300 * 2**20
"""What all processes of the server may grow by: logs, caches and two drafters are a few MiB."""
SETTINGS = (
    "limits.max_output_tokens=8", "limits.max_choices=2", "limits.max_prompts=2",
    "limits.max_prompt_characters=2000", "drain_timeout_seconds=2",
)  # fmt: skip
FOLDERS = ["a", "b", "a", "b", "../a", "/etc", "a/../b", "", "a\x00", "x" * 5000, "\ud800"]
NAMES = ["a", "b", "dflash", "dpace"]
WEIGHTS = {
    "POST /v1/completions": 12,
    "POST /v1/chat/completions": 12,
    "PUT /dpace/drafters/champion": 2,
    "PUT /dpace/drafters/challenger": 2,
    "POST /dpace/promote": 3,
    "DELETE /dpace/drafters/challenger": 3,
}


@pytest.fixture(scope="module")
def server(open_server, tmp_path_factory):
    """Small limits, a key of each kind, a challenger, and a folder to load drafters from."""
    folder = tmp_path_factory.mktemp("calls")
    for name, copy in (("dflash", "a"), ("dpace", "b")):
        shutil.copytree(bundle.drafter_folder(name), folder / "root" / copy)
    options = [f"drafter_root={folder / 'root'}", *SETTINGS]
    for setting, key in (("admin_key_file", ADMIN), ("metrics_key_file", METRICS)):
        options.append(f"{setting}={_write_key(folder / setting, key)}")
    arguments = [part for option in options for part in ("--set", option)]
    arguments += ["--challenger", str(bundle.drafter_folder("dflash"))]
    default = f'{{"max_new_tokens": {MOST_TOKENS}}}'
    with open_server(*arguments, engine=("--override-generation-config", default)) as served:
        yield served


def _write_key(file: Path, key: str) -> Path:
    file.touch(mode=0o600)
    file.write_text(f"{key}\n")
    return file


def _rewrite(case, draw):
    """Something an engine or a fleet takes up, where a generated body would rarely get so far."""
    body = case.body if isinstance(case.body, dict) else {}
    chance = draw.random()
    if case.path in PLAIN:
        if chance < 0.4:
            return hostile(case.path, MODEL, draw)
        if chance < 0.8:
            kept = {name: body[name] for name in sorted(body) if draw.random() < 0.4}
            return {**kept, "model": MODEL, **PLAIN[case.path]}
        if chance < 0.9:
            return {**body, "model": MODEL}
    elif case.method == "PUT" and chance < 0.5:
        return {"folder": draw.choice(FOLDERS)}
    elif case.path == "/dpace/promote" and chance < 0.5:
        return draw.choice([{}, {"name": draw.choice(NAMES)}])
    return None


def _call_server(served, number, start):
    """The calls of several clients at once, each with a share of them."""
    document = served.client.get("/dpace/openapi.json").json()
    pages = [path for path in document["paths"] if path.startswith("/dpace/static/")]
    weights = WEIGHTS | {f"{method} {path}": 0.1 for path in pages for method in ("GET", "HEAD")}
    base = str(served.client.base_url).rstrip("/")

    def call(client):
        with requests.Session() as session:
            session.trust_env = False

            def send(request):
                sent = {**request, "url": base + request["url"]}
                return session.request(**sent, timeout=120, allow_redirects=False)

            return call_all(
                Caller(send, KEYS, rewrite=_rewrite),
                document,
                number // NUM_CLIENTS,
                weights=weights,
                start=start + client,
                rounds=NUM_ROUNDS,
            )

    calls = Calls()
    with ThreadPoolExecutor(NUM_CLIENTS) as clients:
        for found in clients.map(call, range(NUM_CLIENTS)):
            calls.add(found)
    return calls


def _greedy(served):
    return served.ask("/v1/completions", prompt="The", max_tokens=MOST_TOKENS)["choices"]


def _memory(process) -> int:
    root = psutil.Process(process.pid)
    return sum(one.memory_info().rss for one in [root, *root.children(recursive=True)])


def _require_sound(served, number, start):
    before = _greedy(served)
    _call_server(served, NUM_QUICK_CALLS, start + NUM_CLIENTS)  # what is filled once is filled
    memory = _memory(served.process)
    calls = _call_server(served, number, start)
    report = calls.report()
    print(report)  # noqa: T201  (the record of a long run)
    assert calls.count.total() >= number
    assert not calls.findings, report
    assert {200, 400} <= calls.statuses("POST /v1/completions"), report
    assert {200, 400} <= calls.statuses("POST /v1/chat/completions"), report
    assert 200 in calls.statuses("PUT /dpace/drafters/champion"), report
    assert served.process.poll() is None
    assert _greedy(served) == before
    assert _memory(served.process) - memory < MEMORY_BOUND_BYTES


@pytest.mark.timeout(900)
def test_hundreds_of_calls_are_answered_as_the_document_says_and_leave_the_server_as_it_was(server):
    _require_sound(server, NUM_QUICK_CALLS, 1)


@pytest.mark.parametrize("route", sorted(PLAIN))
@pytest.mark.parametrize(
    "constraint",
    [
        {"structured_outputs": {"grammar": "root ::= root"}},
        {"response_format": {"type": "json_schema", "json_schema": {
            "name": "a", "schema": {"$ref": "#"}}}},
    ],
)  # fmt: skip
def test_what_no_text_satisfies_is_a_mistake_of_the_client(server, route, constraint):
    body = {"model": MODEL, **PLAIN[route], **constraint}
    response = server.client.post(route, json=body)
    assert response.status_code == 400
    assert "must allow some text" in response.json()["error"]["message"]
    assert _greedy(server)


@pytest.mark.parametrize("route", sorted(PLAIN))
@pytest.mark.parametrize("value", [-2.0, 2.0])
def test_penalties_are_answered_while_a_drafter_speculates_cve_2026_44223(server, route, value):
    # The engine of that report extracted hidden states; ours drafts with dflash.
    for penalty in ("presence_penalty", "frequency_penalty"):
        answer = server.ask(route, **{**PLAIN[route], penalty: value})
        assert answer["usage"]["completion_tokens"] > 0
    answer = server.ask(
        route, **{**PLAIN[route], "repetition_penalty": 1.5, "n": 2, "temperature": 1}
    )
    assert len(answer["choices"]) == 2
    assert _greedy(server)


@pytest.mark.bench
@pytest.mark.timeout(7200)
def test_ten_thousand_calls_are_answered_as_the_document_says_and_leave_the_server_as_it_was(
    server,
):
    _require_sound(server, NUM_CALLS, 100)
