"""A server that is not wholly ours does not start, although SGLang would go on without a word."""

import concurrent.futures
import json
import signal
import time

import httpx2
import pytest

from dpace_serve.errors import EngineError

from .conftest import OPENED  # noqa: TID252 - tests have no package

pytestmark = [pytest.mark.sglang]

START_TIMEOUT_SECONDS = 600
LOST = "sglang.srt.managers.schedule_batch.Req.update_spec_correct_drafts_histogram"
# A plugin that makes SGLang's registry fail at one of our hooks; SGLang logs that, and goes on.
THIEF = f"""
import multiprocessing

def register():
    from sglang.srt.plugins.hook_registry import HookRegistry

    apply = HookRegistry._apply_target.__func__

    def fail(registry, target, hooks):
        if target == "{LOST}":
            raise RuntimeError("stolen")
        apply(registry, target, hooks)

    if WHERE == (multiprocessing.parent_process() is None):
        HookRegistry._apply_target = classmethod(fail)
"""


@pytest.fixture
def thief(tmp_path):
    """A folder with a plugin that loses a hook of ours, in the launcher or in its processes."""

    def make(*, is_in_launcher):
        (tmp_path / "thief.py").write_text(f"WHERE = {is_in_launcher}\n{THIEF}")
        metadata = tmp_path / "thief-0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: thief\nVersion: 0\n")
        (metadata / "entry_points.txt").write_text("[sglang.srt.plugins]\nthief = thief:register\n")
        return str(tmp_path)

    return make


@pytest.mark.parametrize(
    ("is_in_launcher", "said"),
    [(True, f"these did not: {LOST}"), (False, f"in scheduler 0 these did not: {LOST}")],
)
def test_a_hook_that_was_lost_ends_the_start(serve, thief, is_in_launcher, said):
    environment = {"PYTHONPATH": thief(is_in_launcher=is_in_launcher)}
    with (
        serve(environment=environment) as process,
        pytest.raises(EngineError, match=said),
    ):
        process.wait_until_healthy(START_TIMEOUT_SECONDS)


def test_sigterm_lets_the_running_answer_end(serve):
    with serve(*OPENED, "--set", "shutdown_timeout_seconds=300") as process:
        process.wait_until_healthy(START_TIMEOUT_SECONDS)
        headers = {"Authorization": "Bearer a-key-for-tests"}
        body = {
            "text": "SELECT name FROM",
            "stream": True,
            "sampling_params": {"temperature": 0, "max_new_tokens": 200, "ignore_eos": True},
        }
        with (
            httpx2.Client(base_url=process.url, timeout=300, trust_env=False) as client,
            client.stream("POST", "/generate", json=body, headers=headers) as response,
        ):
            lines = response.iter_lines()
            next(lines)
            process.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        process.process.wait(60)
        assert process.process.returncode == 0


def test_at_the_time_limit_an_answer_ends_with_an_error_and_the_server_ends(serve, tmp_path):
    log = tmp_path / "log.jsonl"
    options = ("shutdown_timeout_seconds=1", f"acceptance_log.path={log}")
    headers = {"Authorization": "Bearer a-key-for-tests"}
    body = {"model": "tiny", "prompt": "SELECT", "max_tokens": 1500, "ignore_eos": True}
    with (
        serve(*[word for option in options for word in ("--set", option)]) as process,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        process.wait_until_healthy(START_TIMEOUT_SECONDS)
        with (
            httpx2.Client(
                base_url=process.url, headers=headers, timeout=60, trust_env=False
            ) as client,
            client.stream("POST", "/v1/completions", json={**body, "stream": True}) as response,
        ):
            whole = pool.submit(client.post, "/v1/completions", json=body)
            lines = response.iter_lines()
            next(lines)
            wait_until_running(client, 2)  # the signal must not overtake the second request
            process.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
            answer = whole.result(60)
            assert client.post("/v1/completions", json=body).status_code == 503
        process.process.wait(60)
        assert process.process.returncode == 0
    *_, error, done = rest
    assert done == "data: [DONE]"
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == 503
    assert sum('"error"' in line for line in rest) == 1
    assert answer.status_code == 503
    assert answer.json()["error"] == json.loads(error.removeprefix("data: "))["error"]
    assert answer.headers["Retry-After"] == "1"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["excluded"] for row in rows] == ["aborted", "aborted"]


def wait_until_running(client, count):
    deadline = time.monotonic() + 60
    while client.get("/dpace/drafters").json()["drafters"][0]["running"] != count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
