"""The server of deploy/k8s/overlays/cpu, started as its pod would be: arguments, settings, keys.

What a cluster adds is made by hand: the volume that the init container fills, and a Secret's files,
which are links to files of another user, readable for the group.
"""

import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
import yaml

from dpace_serve.demo.server_process import free_port, running_server
from tests.unit.deploy.kubernetes.manifests import of_kind, pods, rendered

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.long]

KEYS = {"api_keys": "a-client", "admin_key": "an-admin", "metrics_key": "a-prometheus"}
OTHER_USER = 65534
START_SECONDS = 600


@pytest.fixture
def keys(tmp_path) -> Path:
    """A folder as the kubelet mounts a Secret."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    folder, data = tmp_path / "keys", tmp_path / "keys" / "..2026_01_01"
    data.mkdir(parents=True)
    (folder / "..data").symlink_to(data.name)
    for name, key in KEYS.items():
        (data / name).write_text(f"{key}\n")
        (data / name).chmod(0o440)
        os.chown(data / name, OTHER_USER, os.getegid())
        (folder / name).symlink_to(Path("..data") / name)
    return folder


@pytest.fixture
def pod():
    (found,) = pods(rendered("cpu"))
    return found


@pytest.fixture
def models(pod, tmp_path) -> Path:
    """The volume, after the init container."""
    *command, script = pod.spec["initContainers"][0]["command"]
    assert command == ["python", "-c"]
    folder = tmp_path / "models"
    script = script.replace('Path("/models")', f"Path({str(folder)!r})")
    subprocess.run([sys.executable, "-c", script], check=True)
    return folder


@pytest.fixture
def settings(keys, models, tmp_path) -> dict:
    """The ConfigMap with the volumes and ports of this machine, written beside them."""
    (text,) = (
        one["data"]["serve.yaml"]
        for one in of_kind(rendered("cpu"), "ConfigMap")
        if "serve.yaml" in one["data"]
    )
    text = text.replace("/run/secrets/dpace", str(keys)).replace("/models", str(models))
    found = yaml.safe_load(text)
    # Not 0.0.0.0: nobody else on this network needs to see a test.
    found |= {"host": "127.0.0.1", "port": free_port()}
    found["observation"] = {"host": "127.0.0.1", "port": free_port()}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(found), encoding="utf-8")
    return found


def test_the_pod_becomes_ready_and_keeps_its_two_ports_apart(pod, settings, tmp_path, monkeypatch):
    (container,) = pod.spec["containers"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    config = str(tmp_path / "serve.yaml")
    arguments = [one.replace("/etc/dpace/serve.yaml", config) for one in container["args"]]
    with running_server(
        [sys.executable, "-m", "dpace_serve.cli", *arguments],
        name="pod",
        port=settings["port"],
        log=tmp_path / "pod.log",
        stop_timeout_seconds=30,
    ) as server:
        server.wait_until_healthy(START_SECONDS)
        observation = f"http://127.0.0.1:{settings['observation']['port']}"
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert status(f"{server.url}{container[kind]['httpGet']['path']}") == 200
        models = f"{server.url}/v1/models"
        assert (status(models), status(models, "a-client")) == (401, 200)
        # What the ServiceMonitor asks, with its key.
        metrics = f"{observation}/metrics"
        assert (status(metrics), status(metrics, "a-client")) == (401, 401)
        assert status(metrics, "a-prometheus") == 200
        assert status(f"{server.url}/metrics", "a-prometheus") == 404
        assert status(f"{server.url}/dpace/drafters", "an-admin") == 404
        # What `dpace drafter swap` asks through a forwarded port.
        swapped = httpx2.put(
            f"{observation}/dpace/drafters/champion",
            json={"folder": "dflash"},
            headers={"Authorization": "Bearer an-admin"},
            timeout=120,
        )
        assert swapped.status_code == 200, swapped.text


def status(url: str, key: str | None = None) -> int:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx2.get(url, headers=headers, timeout=30).status_code
