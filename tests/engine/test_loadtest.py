"""Our times of a real server beside those of `vllm bench serve`, in turn on the same server."""

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec

import pytest

from dpace_loadtest.row_json import read_rows
from dpace_loadtest.run import run
from dpace_loadtest.scenario import ScenarioConfig
from dpace_serve.config import build_config
from dpace_serve.demo import bundle
from dpace_serve.demo.prompts import read_prompts

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # Looked for, not imported: an import would patch the sockets of this process.
    pytest.mark.skipif(find_spec("locust") is None, reason="locust is not installed"),
]

NUM_REQUESTS = 96
# More than the server takes at a time: times then are the server's, and what a client's own start
# and connections cost does not show.
NUM_USERS = 12
MAX_TOKENS = 48
NUM_ROUNDS = 3
MEASURES = ("p50_ttft_ms", "p95_ttft_ms", "p50_tpot_ms", "p95_tpot_ms")

# The command line of `vllm bench serve`, which the CPU distribution does not install.
BENCH_SERVE = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    key: str


@pytest.fixture(scope="module")
def server(open_server):
    with open_server() as served:
        key = served.client.headers["Authorization"].removeprefix("Bearer ")
        yield Server(str(served.client.base_url).rstrip("/"), key)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """The same questions for both, each asked once in a run."""
    texts = [prompt.text for prompt in read_prompts(bundle.prompts_file()) if prompt.is_chat]
    chosen = texts[:: len(texts) // NUM_REQUESTS][:NUM_REQUESTS]
    assert len(chosen) == NUM_REQUESTS
    folder = tmp_path_factory.mktemp("questions")
    for name, key in (("ours", "question"), ("theirs", "prompt")):
        lines = [json.dumps({key: text}) + "\n" for text in chosen]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


def our_times(server, questions, folder):
    key_file = folder / "key"
    key_file.write_text(server.key)
    workload = {"name": "asked", "source": "file", "file": str(questions / "ours.jsonl")}
    scenario = build_config(
        ScenarioConfig,
        {
            "arms": [{"name": "served", "url": server.url, "api_key_file": str(key_file)}],
            "mode": "closed",
            "loads": [NUM_USERS],
            "warm_up_seconds": 0,
            "num_requests": NUM_REQUESTS,
            "max_tokens": MAX_TOKENS,
            "workloads": [workload],
        },
        source="test",
    )
    rows_file = folder / "rows.jsonl"
    run(scenario, rows_file)
    rows = [row for row in read_rows(rows_file) if row.phase == "measured"]
    assert [row.outcome for row in rows] == ["ok"] * NUM_REQUESTS
    found = {}
    for name, values in (
        ("ttft", [row.ttft_from_send_seconds for row in rows]),
        ("tpot", [row.tpot_seconds for row in rows if row.tpot_seconds is not None]),
    ):
        # Interpolated as numpy does, which the other uses.
        percentiles = statistics.quantiles(values, n=100, method="inclusive")
        found[f"p50_{name}_ms"] = 1e3 * percentiles[49]
        found[f"p95_{name}_ms"] = 1e3 * percentiles[94]
    return found


def their_times(server, questions, folder):
    command = [
        *(sys.executable, "-c", BENCH_SERVE, "--backend", "openai-chat"),
        *("--base-url", server.url, "--endpoint", "/v1/chat/completions"),
        *("--model", "tiny", "--tokenizer", str(bundle.target_folder())),
        *("--dataset-name", "custom", "--dataset-path", str(questions / "theirs.jsonl")),
        *("--skip-chat-template", "--disable-shuffle", "--custom-output-len", str(MAX_TOKENS)),
        *("--num-prompts", str(NUM_REQUESTS), "--max-concurrency", str(NUM_USERS)),
        *("--num-warmups", "4", "--temperature", "0", "--disable-tqdm", "--seed", "0"),
        *("--percentile-metrics", "ttft,tpot", "--metric-percentiles", "50,95"),
        *("--save-result", "--result-dir", str(folder), "--result-filename", "theirs.json"),
    ]
    done = subprocess.run(
        command,
        env=os.environ | {"OPENAI_API_KEY": server.key},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((folder / "theirs.json").read_text())
    assert result["completed"] == NUM_REQUESTS
    return {name: result[name] for name in MEASURES}


@pytest.mark.bench  # of times, which a busy machine disturbs
def test_times_agree_with_vllm_bench_serve_within_10_percent(server, questions, tmp_path):
    our_times(server, questions, tmp_path)  # both then meet the same cached prefixes
    ours, theirs = [], []
    for _ in range(NUM_ROUNDS):
        ours.append(our_times(server, questions, tmp_path))
        theirs.append(their_times(server, questions, tmp_path))
    for name in MEASURES:
        our_median = statistics.median(one[name] for one in ours)
        their_median = statistics.median(one[name] for one in theirs)
        assert our_median == pytest.approx(their_median, rel=0.10), name


def test_every_request_of_the_command_is_joined_with_its_acceptance(server, tmp_path):
    (tmp_path / "key").write_text(server.key)
    scenario = {
        "arms": [{"name": "served", "url": server.url, "api_key_file": str(tmp_path / "key")}],
        "loads": [3],
        "warm_up_seconds": 1,
        "num_requests": 16,
        "max_send_lag_ms": 5000,  # whether the machine is busy is not the point here
    }
    (tmp_path / "small.yaml").write_text(json.dumps(scenario))
    files = {name: tmp_path / f"out.{name}" for name in ("json", "html", "rows")}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "dpace_serve.cli", "loadtest"),
            *("--scenario", str(tmp_path / "small.yaml")),
            *(part for name, file in files.items() for part in (f"--{name}", str(file))),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in files["rows"].read_text().splitlines()]
    assert sum(row["phase"] == "measured" for row in rows) == 16
    for row in rows:
        assert row["outcome"] == "ok"
        assert row["unjoined"] is None
        assert row["acceptance"]["workload"] == row["workload"]
    report = json.loads(files["json"].read_text())
    (group,) = [one["total"] for one in report["loads"]]
    assert group["joined"]["num_counted"] == 16
    assert group["acceptance"][0]["tau"]["value"] > 1
    assert "served" in files["html"].read_text()
