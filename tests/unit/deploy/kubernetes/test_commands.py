"""What the containers run: parsed by the commands themselves, with the settings that they mount."""

import ipaddress
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dpace_loadtest.scenario import ScenarioConfig
from dpace_serve.cli import app
from dpace_serve.config import load_config
from dpace_serve.demo import bundle
from dpace_serve.serve_config import ServeConfig
from dpace_serve.vllm_engine import server
from tests.unit.deploy.kubernetes.manifests import (
    K8S,
    ROOT,
    Manifest,
    named,
    of_kind,
    pods,
    rendered,
)

README = (K8S / "README.md").read_text(encoding="utf-8")
SERVERS = ("cpu", "gpu", "gpu-tensor-parallel", "multi-node", "production")
MOUNTED = "/etc/dpace/serve.yaml"
ONE_START = {"$(LWS_GROUP_SIZE)": "2", "$(LWS_LEADER_ADDRESS)": "dpace-serve-0.dpace-serve.dpace"}
"""Variables that the operator of LeaderWorkerSets gives to the containers of a leader."""


@pytest.fixture
def served(monkeypatch, tmp_path):
    """The settings that an overlay's server is started with: `served("gpu")`."""

    def parse(overlay: str) -> ServeConfig:
        started: list[ServeConfig] = []
        monkeypatch.setattr(server, "serve", started.append)
        manifests = rendered(overlay)
        file = tmp_path / "serve.yaml"
        file.write_text(serve_yaml(manifests), encoding="utf-8")
        arguments = [filled(one).replace(MOUNTED, str(file)) for one in server_arguments(manifests)]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        (config,) = started
        return config

    return parse


def server_arguments(manifests: list[Manifest]) -> list[str]:
    (container,) = (
        one for pod in pods(manifests) for one in pod.containers if "readinessProbe" in one
    )
    return container["args"]


def serve_yaml(manifests: list[Manifest]) -> str:
    (config,) = (one for one in of_kind(manifests, "ConfigMap") if "serve.yaml" in one["data"])
    return config["data"]["serve.yaml"]


def filled(argument: str) -> str:
    for variable, value in ONE_START.items():
        argument = argument.replace(variable, value)
    return argument


@pytest.mark.parametrize("overlay", SERVERS)
def test_the_server_starts_with_what_it_mounts(served, overlay):
    config = served(overlay)
    assert config.observation is not None
    assert (config.port, config.observation.port) == (8000, 8001)
    # A pod is reached by its own address, which nobody knows before it is there.
    for host in (config.host, config.observation.host):
        assert ipaddress.ip_address(host).is_unspecified
    assert config.shutdown_timeout_seconds == 120
    assert not config.allow_anonymous


@pytest.mark.parametrize("overlay", SERVERS)
def test_every_file_of_the_settings_is_on_a_mounted_volume(served, overlay):
    config = served(overlay)
    (pod,) = (pod for pod in pods(rendered(overlay)) if not pod.where.endswith("worker"))
    mounted = {
        mount["mountPath"]: mount["name"] for mount in pod.spec["containers"][0]["volumeMounts"]
    }
    assert mounted[str(config.api_key_file.parent)] == "keys"
    assert {config.admin_key_file.parent, config.metrics_key_file.parent} == {
        config.api_key_file.parent
    }
    assert mounted[str(Path(config.target).parent)] == "models"
    assert config.drafter.parent == config.drafter_root
    assert mounted[str(config.drafter_root.parent)] == "models"


def test_the_readme_makes_every_key_that_is_read(served):
    config = served("gpu")
    made = re.search(r"create secret generic dpace-keys (.+)", README.replace("\\\n", " "))
    files = set(re.findall(r"--from-file=([\w-]+)", made[1]))
    read = {config.api_key_file, config.admin_key_file, config.metrics_key_file}
    assert files == {file.name for file in read}


def test_the_cpu_image_compiles_nothing(served):
    config = served("cpu")
    assert (config.eager, config.dtype) == (True, "float32")


def test_several_gpus_and_several_nodes_reach_the_engine(served):
    assert served("gpu").engine_args == ()
    assert served("gpu-tensor-parallel").engine_args == ("--tensor-parallel-size", "4")
    leader = served("multi-node")
    assert leader.engine_args == (
        *("--tensor-parallel-size", "8", "--nnodes", "2", "--node-rank", "0"),
        *("--master-addr", "dpace-serve-0.dpace-serve.dpace", "--master-port", "29501"),
    )
    assert leader.num_draft_tokens == 15


def test_the_bundled_models_are_put_where_the_settings_look_for_them(served, tmp_path):
    config = served("cpu")
    (pod,) = pods(rendered("cpu"))
    (copying,) = pod.spec["initContainers"]
    _, flag, script = copying["command"]
    assert (flag, script.count('Path("/models")')) == ("-c", 1)
    script = script.replace('Path("/models")', f"Path({str(tmp_path)!r})")
    for _ in range(2):  # an init container may run again on the same volume
        subprocess.run([sys.executable, "-c", script], check=True)
    for folder, source in (
        (config.target, bundle.target_folder()),
        (config.drafter, bundle.drafter_folder("dpace")),
        (config.drafter_root / "dflash", bundle.drafter_folder("dflash")),
    ):
        copied = tmp_path / Path(folder).relative_to("/models")
        weights = (copied / "model.safetensors").read_bytes()
        assert weights == (source / "model.safetensors").read_bytes()
    current = (tmp_path / "drafters" / "current").resolve()
    assert current.is_relative_to(tmp_path / "drafters")  # else it could not be swapped back to


def test_locust_takes_the_arguments_of_master_and_workers():
    for job in of_kind(rendered("loadtest"), "Job"):
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert container["command"] == ["locust"]
        locustfile = str(ROOT / "loadtest" / "locustfile.py")
        arguments = [
            one.replace("/opt/loadtest/locustfile.py", locustfile) for one in container["args"]
        ]
        done = subprocess.run(
            [sys.executable, "-m", "locust", *arguments, "--list"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "ModelTraffic" in done.stdout


def test_the_load_test_asks_the_service_with_a_key_that_it_mounts(tmp_path):
    manifests = rendered("loadtest")
    (config,) = (one for one in of_kind(manifests, "ConfigMap") if "scenario.yaml" in one["data"])
    file = tmp_path / "scenario.yaml"
    file.write_text(config["data"]["scenario.yaml"], encoding="utf-8")
    scenario = load_config(ScenarioConfig, file, [])
    service = named(rendered("gpu"), "Service", "dpace-serve")
    (port,) = service["spec"]["ports"]
    assert str(scenario.url) == f"http://{service['metadata']['name']}:{port['port']}"
    assert {str(arm.api_key_file) for arm in scenario.arms} == {"/run/secrets/dpace/loadtest_key"}
    assert "create secret generic dpace-loadtest-key --from-file=loadtest_key" in README


def test_the_master_waits_for_as_many_workers_as_there_are():
    master = named(rendered("loadtest"), "Job", "dpace-loadtest-master")
    workers = named(rendered("loadtest"), "Job", "dpace-loadtest-workers")
    (container,) = master["spec"]["template"]["spec"]["containers"]
    expected = container["args"][container["args"].index("--expect-workers") + 1]
    assert workers["spec"]["parallelism"] == workers["spec"]["completions"] == int(expected)
