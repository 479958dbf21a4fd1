"""The command, plain locust, and several workers."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import DEVNULL

import httpx2
import psutil
import pytest
import yaml

ROOT = Path(__file__).parents[3]
QUICK = [{"first_ms": 20 + number, "gap_ms": 10, "num_chunks": 3} for number in range(7)]


def test_two_workers_send_the_schedule_of_one(server, scripted, load):
    sent = {}
    with server() as fake:
        for workers in (1, 2):
            record, rows = load(
                url=fake.url,
                loads=[20],
                warm_up_seconds=0.5,
                num_requests=30,
                workloads=[scripted(*QUICK)],
                workers=workers,
                max_send_lag_ms=1000,
            )
            assert record.num_workers == workers
            begin = record.cells[0].begin_seconds
            sent[workers] = [
                (row.session, row.prompt_key, row.phase, round(row.scheduled_seconds - begin, 2))
                for row in rows
            ]
            assert record.cells[0].num_requests == len(rows)
    assert len({number for number, *_ in sent[1]}) == len(sent[1])
    assert [one[:3] for one in sorted(sent[2])] == [one[:3] for one in sorted(sent[1])]
    for alone, shared in zip(sorted(sent[1]), sorted(sent[2]), strict=True):
        # Workers learn of the start by a message; what it took is the only difference.
        assert shared[3] == pytest.approx(alone[3], abs=0.1)


@pytest.fixture
def scenario_file(tmp_path, scripted):
    def write(url, **settings):
        values = {
            "url": url,
            "loads": [20],
            "warm_up_seconds": 0,
            "num_requests": 10,
            "workloads": [scripted(*QUICK)],
            "max_send_lag_ms": 1000,
            **settings,
        }
        path = tmp_path / "scenario.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


def test_a_worker_that_is_gone_ends_the_run_with_its_reason(server, scenario_file):
    with server() as fake:
        scenario = scenario_file(fake.url, num_requests=400, workers=2)
        command = [sys.executable, "-m", "dpace_serve.cli", "loadtest", "--scenario", scenario]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as loadtest:
            _wait_for(lambda: fake.log()["num_requests"] > 10)
            (master,) = psutil.Process(loadtest.pid).children()
            master.children()[0].kill()
            _, said = loadtest.communicate(timeout=60)
    assert loadtest.returncode == 2
    assert said.splitlines()[-1].startswith("dpace: a worker is gone (")
    assert said.splitlines()[-1].endswith("). Start it and run again.")


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_ended_leaves_no_generator_behind(server, scenario_file, sent):
    with server() as fake:
        scenario = scenario_file(fake.url, num_requests=4000, workers=2)
        command = [sys.executable, "-m", "dpace_serve.cli", "loadtest", "--scenario", scenario]
        with subprocess.Popen(command, stderr=DEVNULL) as loadtest:
            _wait_for(lambda: fake.log()["num_requests"] > 10)
            generators = psutil.Process(loadtest.pid).children(recursive=True)
            assert len(generators) == 3
            loadtest.send_signal(sent)
            loadtest.wait(30)
        _wait_for(lambda: not any(one.is_running() for one in generators))
    assert loadtest.returncode != 0


def dpace(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "dpace_serve.cli", "loadtest", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_runs_a_scenario_and_keeps_the_report(server, scenario_file, tmp_path):
    files = {name: tmp_path / f"kept.{name}" for name in ("json", "html", "rows")}
    options = [part for name, file in files.items() for part in (f"--{name}", file)]
    with server() as fake:
        scenario = scenario_file("http://127.0.0.1:9")
        done = dpace("--url", fake.url, "--scenario", scenario, *options, "num_requests=12")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in files["rows"].read_text().splitlines()]
    assert [(row["outcome"], row["unjoined"]) for row in rows] == [("ok", "no_service")] * 12
    report = json.loads(files["json"].read_text())
    assert report["scenario"]["name"] == "scenario"
    assert report["arms"][0]["url"] == fake.url
    assert report["loads"][0]["total"]["outcomes"]["ok"] == 12
    assert files["html"].read_text().startswith("<!DOCTYPE html>")
    assert "[1/1] served, 20 requests/s, round 1: 12 requests, 0 failed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_generator_that_is_too_slow_fails_the_run(server, scenario_file):
    with server() as fake:
        done = dpace("--scenario", scenario_file(fake.url), "max_send_lag_ms=0.000001")
    assert done.returncode == 1
    assert "The load generator was saturated" in done.stdout


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (["url=http://127.0.0.1:9"], "http://127.0.0.1:9: does not answer"),
        (["lods=[1]"], "unknown key lods"),
        (["workloads=[{name: w, source: file, file: /no/such}]"], "/no/such: cannot be read"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(server, scenario_file, settings, complaint):
    with server() as fake:
        done = dpace("--scenario", scenario_file(fake.url), *settings)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("dpace: ")
    assert done.stderr.count("\n") == 1
    assert complaint in done.stderr


def test_plain_locust_runs_the_scenario_with_our_entries_in_its_statistics(
    server, scenario_file, tmp_path
):
    with server() as fake:
        scenario = scenario_file(fake.url)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless"),
                *("--csv", str(tmp_path / "locust")),
            ],
            cwd=ROOT,
            env=os.environ | {"DPACE_SCENARIO": str(scenario)},
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "locust_stats.csv").open(newline="") as lines:
        entries = {row["Type"]: row for row in csv.DictReader(lines) if row["Type"]}
    counts = {kind: int(entry["Request Count"]) for kind, entry in entries.items()}
    assert counts == {
        "end_to_end": 10,
        "send_lag": 10,
        "ttft_from_schedule": 10,
        "ttft_from_send": 10,
        "tpot": 10,
        "chunk_gap": 20,
    }
    assert {entry["Name"] for entry in entries.values()} == {"served scripted"}
    assert float(entries["ttft_from_send"]["Min Response Time"]) >= 20


def test_the_web_page_of_locust_starts_a_run_and_shows_our_entries(
    server, scenario_file, closed_port
):
    page = f"http://127.0.0.1:{closed_port}"
    with server() as fake:
        command = [
            *(sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py"),
            *("--web-host", "127.0.0.1", "--web-port", str(closed_port)),
            *("--scenario", str(scenario_file("http://127.0.0.1:9"))),
        ]
        with (
            subprocess.Popen(command, cwd=ROOT, stdin=DEVNULL, stderr=DEVNULL) as locust,
            httpx2.Client(base_url=page, trust_env=False, timeout=10) as client,
        ):
            try:
                _wait_for(lambda: client.get("/").status_code == 200)
                # What the page's form sends; its host is where the requests go.
                form = {"user_count": 1, "spawn_rate": 1, "host": fake.url}
                assert client.post("/swarm", data=form).json()["success"]
                _wait_for(lambda: client.get("/stats/requests").json()["state"] == "stopped")
                stats = client.get("/stats/requests").json()["stats"]
            finally:
                locust.terminate()
    counts = {entry["method"]: entry["num_requests"] for entry in stats if entry["method"]}
    assert counts["end_to_end"] == counts["ttft_from_schedule"] == 10


def _wait_for(is_true):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx2.TransportError):
            if is_true():
                return
        time.sleep(0.2)
    raise TimeoutError


def test_locust_without_a_scenario_says_how_to_name_one():
    environment = {name: value for name, value in os.environ.items() if name != "DPACE_SCENARIO"}
    done = subprocess.run(
        [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless"],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "Add --scenario FILE, or set DPACE_SCENARIO." in done.stderr
