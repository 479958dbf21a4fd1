"""A served challenger, scraped by a real Prometheus with the shipped rules, and known traffic.

The server is gone when the tests run. Queries are asked for the moment of its last scrape: there
`increase` over everything is exact, because every series began at 0 and none is extrapolated.
"""

import contextlib
import itertools
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from dpace_serve.demo import bundle
from dpace_serve.drafter import checkpoint
from tests.engine.conftest import API_KEY
from tests.engine.live.watched.watched_server import NUM_DRAFT_TOKENS, STEP_MS, Watched

SHIPPED = Path(__file__).parents[4] / "deploy" / "prometheus"
WORKLOADS = ("code", "json", "sql")
NUM_VERDICT_REQUESTS = 32
"""Short requests that bring the pairs above the least number that a verdict asks for."""
WAIT_SECONDS = 60


@pytest.fixture(scope="session")
def step_ms() -> dict[int, float]:
    return STEP_MS


@pytest.fixture(scope="session")
def watched(open_live_server, texts, tmp_path_factory) -> Iterator[Watched]:
    """A challenger in the shadow, which some clients choose, in a calibrated server."""
    folder = tmp_path_factory.mktemp("watched")
    options = ("--set", f"step_times={_step_times(folder)}")
    with _watching(open_live_server(*options), folder, lambda live: _send(live, texts)) as found:
        yield found


@pytest.fixture(scope="session")
def watched_split(open_live_server, texts, tmp_path_factory) -> Iterator[Watched]:
    """A challenger that serves half of the requests."""
    folder = tmp_path_factory.mktemp("watched-split")
    options = ("--mode", "split", "--share", "0.5")
    with _watching(open_live_server(*options), folder, lambda live: _draw(live, texts)) as found:
        yield found


@contextlib.contextmanager
def _watching(
    server, folder: Path, send: Callable[[Any], list[dict[str, Any]]]
) -> Iterator[Watched]:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    with contextlib.ExitStack() as stack:
        with server as live:
            client = stack.enter_context(_prometheus(folder, live.client.base_url.netloc.decode()))
            # From the first request on: series that began at 0 need no extrapolation backwards.
            _wait_for(client, "count(dpace_acceptance_requests_total == 0) > 0")
            start = time.time()
            found = _watched(live, client, start, send(live))
        yield found


def _step_times(folder: Path) -> Path:
    path = folder / "times.json"
    measured = [
        {
            "batch_size": batch_size,
            "num_draft_tokens": length,
            "step_ms": step_ms,
            "tau": 2.0,
            "tokens_per_second": 100.0,
        }
        for batch_size, (length, step_ms) in itertools.product((1, 8), STEP_MS.items())
    ]
    values = {
        "format": 1,
        "target": "target",
        "drafter": "dpace",
        "revision": checkpoint.revision(bundle.drafter_folder("dpace")),
        "num_draft_tokens": NUM_DRAFT_TOKENS,
        "machine": {"device": "cpu", "cpu": "none", "num_cores": 1, "engine": "none"},
        "schedule": [[1, 8, NUM_DRAFT_TOKENS]],
        "measured": measured,
    }
    path.write_text(json.dumps(values))
    return path


@contextlib.contextmanager
def _prometheus(folder: Path, target: str) -> Iterator[httpx2.Client]:
    """Run the shipped configuration with another target and everything each second."""
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    config["scrape_configs"][0]["authorization"] = {"type": "Bearer", "credentials": API_KEY}
    (folder / "rules").mkdir()
    for file in (SHIPPED / "rules").glob("*.yml"):
        rules = yaml.safe_load(file.read_text(encoding="utf-8"))
        for group in rules["groups"]:
            group.pop("interval", None)
        (folder / "rules" / file.name).write_text(yaml.safe_dump(rules))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx2.Client(base_url=url, timeout=30, trust_env=False) as client:
            _wait_until(lambda: _is_ready(client), log.read_text)
            yield client
    finally:
        process.kill()
        process.wait()


def _is_ready(client: httpx2.Client) -> bool:
    with contextlib.suppress(httpx2.TransportError):
        return client.get("/-/ready").status_code == 200
    return False


def _wait_for(client: httpx2.Client, expression: str) -> None:
    """Wait until an expression has a value."""

    def read() -> Any:
        return client.get("/api/v1/query", params={"query": expression}).json()["data"]["result"]

    _wait_until(read, lambda: expression)


def _wait_until(is_right: Callable[[], Any], describe: Callable[[], str]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_right():
        assert time.monotonic() < deadline, describe()
        time.sleep(0.2)


def _send(live, texts) -> list[dict[str, Any]]:
    """Requests of three workloads in batches, some by the challenger, and what is left out."""
    asked = [
        {
            "prompt": text,
            "max_tokens": 24 + 8 * (index % 4),
            "vllm_xargs": {
                "dpace_workload": WORKLOADS[index % 3],
                **({"dpace_drafter": "dflash"} if index % 4 == 3 else {}),
            },
        }
        for index, text in enumerate(texts * 2)
    ]
    asked += [
        {
            "prompt": texts[index % len(texts)],
            "max_tokens": 12,
            "vllm_xargs": {"dpace_workload": WORKLOADS[index % 3]},
        }
        for index in range(NUM_VERDICT_REQUESTS)
    ]
    asked.append({"prompt": texts[0], "max_tokens": 16, "vllm_xargs": {"dpace_workload": "new"}})
    asked.append({"prompt": texts[0], "max_tokens": 16, "n": 2, "temperature": 1})
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda body: live.ask("/v1/completions", **body), asked))
    refused = live.admin.put("/dpace/drafters/challenger", json={"folder": "absent"})
    assert refused.status_code == 404
    return answers


def _draw(live, texts) -> list[dict[str, Any]]:
    """Short requests whose ids decide who serves them, and some that choose the challenger."""
    asked = [{"prompt": texts[index % len(texts)], "max_tokens": 4} for index in range(120)]
    asked += [
        {
            "request_id": f"chosen-{index}",
            "prompt": texts[index % len(texts)],
            "max_tokens": 4,
            "vllm_xargs": {"dpace_drafter": "dflash"},
        }
        for index in range(60)
    ]
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda body: live.ask("/v1/completions", **body), asked))


def _watched(live, client: httpx2.Client, start: float, answers: list[dict[str, Any]]) -> Watched:
    live.wait_until_idle()
    live.wait_for(live.samples, lambda found: _num_ended(found) >= len(live.logged()))
    samples = live.samples()
    requests = sum(sample.value for sample in samples["dpace_acceptance_requests_total"])
    _wait_for(client, f"sum(dpace_acceptance_requests_total) == {requests}")
    time.sleep(3)  # three more scrapes, and the rules after them
    rules = client.get("/api/v1/rules").json()["data"]["groups"]
    end = _ask(client, 'max(timestamp(dpace_export_errors_total{stage="log"}))')
    num_scrapes = _ask(client, f"count_over_time(dpace_workload_unknown_total[1h] @ {end})")
    first = _ask(client, f"min_over_time(timestamp(dpace_workload_unknown_total)[1h:1s] @ {end})")
    interval = (end - first) / (num_scrapes - 1)
    return Watched(
        prometheus=client,
        start=start,
        end=end,
        # To the end of a range that lies up to 1.1 scrapes after the last one.
        most_extrapolated=1 + 1.1 * interval / (end - first - 2 * interval),
        answers=answers,
        instance=live.client.base_url.netloc.decode(),
        records=live.logged(),
        acceptance=live.served.acceptance(),
        verdict=live.client.get("/dpace/verdict").json(),
        slots=live.slots(),
        samples=live.samples(),
        rules=[rule for group in rules for rule in group["rules"]],
    )


def _ask(client: httpx2.Client, expression: str) -> float:
    data = client.get("/api/v1/query", params={"query": expression}).json()["data"]
    (series,) = data["result"]
    return float(series["value"][1])


def _num_ended(samples: dict[str, list[Any]]) -> float:
    names = ("dpace_acceptance_requests_total", "dpace_requests_excluded_total")
    return sum(sample.value for name in names for sample in samples[name])
