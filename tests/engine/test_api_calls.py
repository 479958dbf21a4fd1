"""A real server, called with valid, invalid and hostile requests on every route that is open."""

import shutil
from pathlib import Path

import psutil
import pytest

from dpace_serve.demo import bundle
from tests.hostile_requests import PLAIN
from tests.server_calls import KEYS, MODEL, NUM_CLIENTS, call_server

pytestmark = [pytest.mark.engine, pytest.mark.slow]

NUM_CALLS, NUM_QUICK_CALLS = 10_000, 300
MOST_TOKENS = 8
MEMORY_BOUND_BYTES = 300 * 2**20
"""What all processes of the server may grow by: logs, caches and two drafters are a few MiB."""
SETTINGS = (
    "limits.max_output_tokens=8", "limits.max_choices=2", "limits.max_prompts=2",
    "limits.max_prompt_characters=2000", "drain_timeout_seconds=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def server(open_server, tmp_path_factory):
    """Small limits, a key of each kind, a challenger, and a folder to load drafters from."""
    folder = tmp_path_factory.mktemp("calls")
    for name, copy in (("dflash", "a"), ("dpace", "b")):
        shutil.copytree(bundle.drafter_folder(name), folder / "root" / copy)
    options = [f"drafter_root={folder / 'root'}", *SETTINGS]
    for setting, key in (
        ("admin_key_file", KEYS["admin_key"]),
        ("metrics_key_file", KEYS["metrics_key"]),
    ):
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


def _call_server(served, number, start):
    document = served.client.get("/dpace/openapi.json").json()
    return call_server(str(served.client.base_url).rstrip("/"), document, number, start=start)


def _greedy(served):
    return served.ask("/v1/completions", prompt="The", max_tokens=MOST_TOKENS)["choices"]


def _memory(process) -> int:
    root = psutil.Process(process.pid)
    return sum(one.memory_info().rss for one in [root, *root.children(recursive=True)])


def _require_sound(served, number, start):
    before = _greedy(served)
    calls = _call_server(served, NUM_QUICK_CALLS, start + NUM_CLIENTS)
    memory = _memory(served.process)  # what is filled once is filled
    calls.add(_call_server(served, number, start))
    report = calls.report()
    print(report)  # noqa: T201  (the record of a long run)
    assert calls.count.total() >= number
    assert not calls.findings, report
    assert {200, 400} <= calls.statuses("POST /v1/completions"), report
    assert {200, 400} <= calls.statuses("POST /v1/chat/completions"), report
    assert served.process.poll() is None
    assert _greedy(served) == before
    assert _memory(served.process) - memory < MEMORY_BOUND_BYTES
    return calls


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
    calls = _require_sound(server, NUM_CALLS, 100)
    for label in ("PUT /dpace/drafters/champion", "PUT /dpace/drafters/challenger"):
        assert {200, 401, 403, 404, 422} <= calls.statuses(label), calls.report()
