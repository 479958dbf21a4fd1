"""The pods of deploy/k8s/overlays/multi-node, started here as two processes on the loopback.

With less of everything: two ranks in place of eight, the bundled models, no captured graphs.
"""

import importlib.metadata
import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
import yaml

from dpace_serve.demo import bundle
from dpace_serve.demo.server_process import free_port, running_server
from tests.unit.deploy.kubernetes.manifests import of_kind, pods, rendered

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.long]

ADMIN_KEY = "a-key-of-this-test-only"
START_SECONDS = 600
QUESTION = "Write as JSON: name Anna King, age 36"
ANSWER = {"name": "Anna King", "age": 36}


@pytest.fixture
def containers(monkeypatch, tmp_path) -> dict[str, dict]:
    """Of leader and worker; their variables are set, as far as they make sense here."""
    found = {
        pod.where.rpartition(" ")[2]: pod.containers[0] for pod in pods(rendered("multi-node"))
    }
    variables = {one["name"]: one.get("value") for one in found["worker"]["env"]}
    for name in ("VLLM_PLUGINS", "VLLM_USE_V2_MODEL_RUNNER", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, variables[name])
    monkeypatch.setenv("VLLM_HOST_IP", "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    # `dpace serve` sets these for itself on a CPU; vLLM's own command must be told.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    paths = [str(_named_vllm(tmp_path)), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return found


def _named_vllm(folder: Path) -> Path:
    """A folder in which the CPU engine is called `vllm` too: its own command asks for that name."""
    installed = importlib.metadata.version("vllm-cpu")
    metadata = folder / "named" / f"vllm-{installed}+cpu.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {installed}+cpu\n")
    return folder / "named"


@pytest.fixture
def smaller(tmp_path):
    """What an argument of the overlay is here."""
    settings = tmp_path / "serve.yaml"
    port = str(free_port())
    instead = {
        "/etc/dpace/serve.yaml": str(settings),
        "/models/target": str(bundle.target_folder()),
        "/models/drafters/current": str(bundle.drafter_folder("dpace")),
        "$(LWS_GROUP_SIZE)": "2",
        "$(LWS_WORKER_INDEX)": "1",
        "$(LWS_LEADER_ADDRESS)": "127.0.0.1",
        "29501": port,
        '--tensor-parallel-size, "8"': '--tensor-parallel-size, "2"',
        "--tensor-parallel-size=8": "--tensor-parallel-size=2",
        "num_draft_tokens=15": "num_draft_tokens=7",
        '"num_speculative_tokens":15': '"num_speculative_tokens":7',
        "--dtype=auto": "--dtype=float32",
    }

    def change(text: str) -> str:
        for given, value in instead.items():
            text = text.replace(given, value)
        return text

    return change


@pytest.fixture
def leader_settings(tmp_path, smaller) -> int:
    """Writes the overlay's settings for this machine; returns the port."""
    (text,) = (
        one["data"]["serve.yaml"]
        for one in of_kind(rendered("multi-node"), "ConfigMap")
        if "serve.yaml" in one["data"]
    )
    settings = yaml.safe_load(smaller(text))
    # On the loopback one port without API keys is enough.
    for name in ("observation", "api_key_file", "metrics_key_file"):
        del settings[name]
    key = tmp_path / "admin-key"
    key.write_text(ADMIN_KEY)
    key.chmod(0o600)
    port = free_port()
    settings |= {
        "host": "127.0.0.1",
        "port": port,
        "admin_key_file": str(key),
        "drafter_root": str(bundle.drafter_folder("dpace").parent),
        "dtype": "float32",
        "eager": True,
        "shutdown_timeout_seconds": 5,
    }
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return port


def test_two_nodes_answer_together_and_swap_the_drafter_on_both(
    containers, smaller, leader_settings, tmp_path
):
    leader = [smaller(one) for one in containers["leader"]["args"]]
    worker = [smaller(one) for one in containers["worker"]["args"]]
    assert containers["worker"]["command"] == ["vllm"]
    vllm = [sys.executable, "-c", "from vllm.entrypoints.cli.main import main; main()"]
    with ExitStack() as stack:
        stack.enter_context(
            running_server(
                [*vllm, *worker, "--enforce-eager"],
                name="worker",
                port=free_port(),
                log=tmp_path / "worker.log",
                stop_timeout_seconds=5,
            )
        )
        server = stack.enter_context(
            running_server(
                [sys.executable, "-m", "dpace_serve.cli", *leader],
                name="leader",
                port=leader_settings,
                log=tmp_path / "leader.log",
                stop_timeout_seconds=30,
            )
        )
        server.wait_until_healthy(START_SECONDS)
        with httpx2.Client(base_url=server.url, timeout=120, trust_env=False) as client:
            assert json.loads(answer(client)) == ANSWER
            swapped = client.put(
                "/dpace/drafters/champion",
                json={"folder": "dflash"},
                headers={"Authorization": f"Bearer {ADMIN_KEY}"},
            )
            assert swapped.status_code == 200, swapped.text
            assert json.loads(answer(client)) == ANSWER
            counted = client.get("/dpace/acceptance").json()["drafters"]
    (dflash,) = (one for one in counted if one["drafter"] == "dflash" and "workload" not in one)
    assert dflash["requests"] == 1
    assert dflash["tau"] > 1


def answer(client: httpx2.Client) -> str:
    response = client.post(
        "/v1/chat/completions",
        json={
            "model": "target",
            "temperature": 0,
            "max_tokens": 40,
            "messages": [{"role": "user", "content": QUESTION}],
        },
    )
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]
