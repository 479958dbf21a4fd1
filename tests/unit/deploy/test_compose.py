"""The compose files: of the schema, closed to other machines, and every command one that runs."""

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml

from dpace_loadtest.scenario import ScenarioConfig
from dpace_serve.config import load_config
from dpace_serve.serve_config import ServeConfig
from tests.unit.deploy.compose_rules import DEPLOY, ROOT, faults, mounts, read

COMPOSE = DEPLOY / "compose.yaml"
CUDA = DEPLOY / "compose.cuda.yaml"
TEXT = COMPOSE.read_text(encoding="utf-8")
SCHEMA_CHECK = Path(sys.executable).with_name("check-jsonschema")

MISTAKES = {
    "a port for everyone": ('"127.0.0.1:8000:8000"', '"8000:8000"'),
    "a port for everyone, said so": ('"127.0.0.1:9090:9090"', '"0.0.0.0:9090:9090"'),
    "the newest image": ("prom/prometheus:v2.55.1", "prom/prometheus:latest"),
    "an image without a version": ("grafana/grafana:12.1.1", "grafana/grafana"),
    "a file system to write to": ("read_only: true", "read_only: false"),
    "capabilities": ("cap_drop: [ALL]", "cap_drop: [NET_RAW]"),
    "privileges to gain": ("no-new-privileges:true", "seccomp:unconfined"),
    "root": ("${DPACE_UID:?run make secrets}", "0"),
    "no memory limit": ("    mem_limit: 6g\n", ""),
    "no limit of processes": ("    pids_limit: 512\n", ""),
    "a path that is not there": ("./compose/prometheus.yml", "./compose/prometheus.yaml"),
    "a config to write to": ("/etc/dpace/serve.yaml:ro", "/etc/dpace/serve.yaml"),
    "a secret from elsewhere": ("file: ./secrets/api_keys", "file: ./serve/cpu.yaml"),
    "a secret that is not declared": ("secrets: [metrics_key]", "secrets: [metric_key]"),
    "too little time to stop": ("stop_grace_period: 60s", "stop_grace_period: 20s"),
    "a dependency that may not be ready": ("server: {condition: service_healthy}",
                                           "server: {condition: service_started}"),
    "the host's network": ("    shm_size: 1g", "    network_mode: host\n    shm_size: 1g"),
}  # fmt: skip


@pytest.fixture(scope="module")
def services() -> dict:
    return read(TEXT)["services"]


def of_schema(file: Path) -> subprocess.CompletedProcess:
    if not SCHEMA_CHECK.exists():
        pytest.skip("check-jsonschema is not installed")
    command = [SCHEMA_CHECK, "--builtin-schema", "vendor.compose-spec", file]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("file", [COMPOSE, CUDA], ids=lambda file: file.name)
def test_the_file_is_of_the_schema_of_compose(file):
    done = of_schema(file)
    assert done.returncode == 0, done.stdout


def test_a_misspelt_key_is_not_of_the_schema(tmp_path):
    file = tmp_path / "compose.yaml"
    file.write_text(TEXT.replace("pids_limit", "pid_limit"), encoding="utf-8")
    assert of_schema(file).returncode == 1


def test_the_services_keep_to_the_rules():
    assert faults(TEXT) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_services_is_found(mistake):
    right, wrong = MISTAKES[mistake]
    assert right in TEXT
    assert len(faults(TEXT.replace(right, wrong))) >= 1


def test_a_user_must_be_said():
    # `:?` stops compose where make secrets has not been run; with `:-` containers would be root.
    assert TEXT.count("${DPACE_UID:?") == TEXT.count("${DPACE_UID") == 1
    assert TEXT.count("${DPACE_GID:?") == TEXT.count("${DPACE_GID") == 1


def test_a_load_test_runs_only_where_it_is_asked_for(services):
    profiles = {name: service.get("profiles") for name, service in services.items()}
    assert profiles == {
        "server": None,
        "prometheus": None,
        "grafana": None,
        "loadtest-master": ["loadtest"],
        "loadtest-worker": ["loadtest"],
    }


@pytest.mark.parametrize("name", ["cpu", "cuda", "systemd"])
def test_what_is_served_is_a_valid_configuration(name):
    config = load_config(ServeConfig, DEPLOY / "serve" / f"{name}.yaml", [])
    assert config.eager is (name == "cpu")  # there is no compiler in that image
    assert config.observation is not None
    assert config.allow_anonymous is False
    if name != "systemd":  # its unit names the key files
        for file in (config.api_key_file, config.admin_key_file, config.metrics_key_file):
            assert file.is_relative_to("/run/secrets")


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_the_server_finds_what_its_configuration_names(services, name):
    config = load_config(ServeConfig, DEPLOY / "serve" / f"{name}.yaml", [])
    server = dict(services["server"])
    if name == "cuda":
        other = read(CUDA.read_text(encoding="utf-8"), DPACE_MODELS="/srv/models")["services"][
            "server"
        ]
        assert other["build"]["dockerfile"] == "deploy/docker/vllm-cuda.Dockerfile"
        server["volumes"] = other["volumes"]
    found = mounts(server)
    assert found["/etc/dpace/serve.yaml"] == f"./serve/{name}.yaml"
    assert "/models" in found
    for path in (Path(config.target), config.drafter, config.drafter_root):
        assert path.is_relative_to("/models")
        if name == "cpu":
            inside = path.relative_to("/models")
            assert (ROOT / "dpace_serve/demo/models" / inside).is_dir()
    for file in (config.api_key_file, config.admin_key_file, config.metrics_key_file):
        assert file.name in server["secrets"]
    published = {int(port.rsplit(":", 1)[1]) for port in server["ports"]}
    assert published == {config.port, config.observation.port}
    assert config.host == config.observation.host == "0.0.0.0"  # noqa: S104 - inside the container


def test_the_graphics_card_is_asked_for_and_its_kernels_can_be_loaded():
    server = yaml.safe_load(CUDA.read_text(encoding="utf-8"))["services"]["server"]
    devices = server["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    # Docker mounts a tmpfs noexec; a named volume takes its place under the same path.
    assert "cuda-cache:/var/cache/dpace" in server["volumes"]
    assert "ports" not in server


def test_prometheus_scrapes_what_the_server_has(services):
    file = yaml.safe_load((DEPLOY / "compose/prometheus.yml").read_text(encoding="utf-8"))
    (job,) = file["scrape_configs"]
    config = load_config(ServeConfig, DEPLOY / "serve/cpu.yaml", [])
    assert job["static_configs"][0]["targets"] == [f"server:{config.observation.port}"]
    assert job["authorization"]["credentials_file"] == str(config.metrics_key_file)
    assert config.metrics_key_file.name in services["prometheus"]["secrets"]


def test_prometheus_scrapes_as_without_containers():
    apart = [
        yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
        for name in ("compose/prometheus.yml", "prometheus/prometheus.yml")
    ]
    assert apart[0]["global"] == apart[1]["global"]
    ours, whole = (file["scrape_configs"][0] for file in apart)
    assert ours["job_name"] == whole["job_name"]
    for relabeling in ours["metric_relabel_configs"]:
        assert relabeling in whole["metric_relabel_configs"]


def laid_out(folder: Path, service: dict, keys: Path) -> Path:
    """What prometheus is given, in a folder that stands for the container's root."""
    for target, source in mounts(service).items():
        place = folder / target.lstrip("/")
        if source is None or "/data/" in source:
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to((DEPLOY / source).resolve())
    secrets = folder / "run/secrets"
    secrets.mkdir(parents=True)
    for name in service["secrets"]:
        shutil.copy(keys / name, secrets / name)
    config = folder / "etc/prometheus/prometheus.yml"
    text = config.read_text(encoding="utf-8")
    config.unlink()
    config.write_text(
        text.replace("/etc/prometheus", f"{folder}/etc/prometheus").replace(
            "/run/secrets", f"{folder}/run/secrets"
        ),
        encoding="utf-8",
    )
    return folder


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    subprocess.run([sys.executable, DEPLOY / "make_secrets.py", folder], check=True)
    return folder / "secrets"


def test_prometheus_takes_its_configuration(services, keys, tmp_path):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    root = laid_out(tmp_path, services["prometheus"], keys)
    config = root / "etc/prometheus/prometheus.yml"
    done = subprocess.run(
        ["promtool", "check", "config", config], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (root / "run/secrets/metrics_key").unlink()
    done = subprocess.run(
        ["promtool", "check", "config", config], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "metrics_key" in done.stderr


def test_prometheus_starts_with_its_command_and_becomes_healthy(services, keys, tmp_path):
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    service = services["prometheus"]
    root = laid_out(tmp_path, service, keys)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [
        word.replace("=/", f"={root}/").replace("0.0.0.0:9090", f"127.0.0.1:{port}")
        for word in service["command"]
    ]
    url = service["healthcheck"]["test"][-1].replace(":9090", f":{port}")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *command], stdout=log, stderr=log, cwd=tmp_path)
        try:
            assert healthy(url, process), (tmp_path / "log").read_text()
            with urlopen(f"http://127.0.0.1:{port}/api/v1/rules") as answer:
                groups = json.load(answer)["data"]["groups"]
            assert len(groups) >= 3
        finally:
            process.terminate()
            process.wait(20)


def healthy(url: str, process: subprocess.Popen) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(url, timeout=2) as answer:  # noqa: S310 - http, of the compose file
                return answer.status == 200
        except URLError:
            time.sleep(0.1)
    return False


def test_grafana_gets_its_boards_and_lets_nobody_in_without_a_password(services):
    grafana = services["grafana"]
    found = mounts(grafana)
    provider = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/dashboards/dpace.yml").read_text(encoding="utf-8")
    )["providers"][0]
    assert found[provider["options"]["path"]] == "./grafana/dashboards"
    assert found["/etc/grafana/provisioning"] == "./grafana/provisioning"
    variables = grafana["environment"]
    assert variables["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert "GF_SECURITY_ADMIN_PASSWORD" not in variables
    file = Path(variables["GF_SECURITY_ADMIN_PASSWORD__FILE"])
    assert file.parent == Path("/run/secrets")
    assert file.name in grafana["secrets"]
    assert variables["PROMETHEUS_URL"] == "http://prometheus:9090"


def test_the_load_test_asks_the_server_with_a_key_of_its_own(services):
    scenario = load_config(ScenarioConfig, DEPLOY / "compose/loadtest.yaml", [])
    (arm,) = scenario.arms
    assert arm.url == "http://server:8000"
    assert arm.observation_url == "http://server:8001"
    assert arm.api_key_file == Path("/run/secrets/loadtest_key")
    for name in ("loadtest-master", "loadtest-worker"):
        assert services[name]["secrets"] == ["loadtest_key"]
    master, worker = services["loadtest-master"], services["loadtest-worker"]
    assert f"--expect-workers={worker['deploy']['replicas']}" in master["command"]
    assert "--master-host=loadtest-master" in worker["command"]
    assert "ports" not in master  # locust's port has no authentication


def test_locust_takes_the_commands_of_the_load_test(services):
    for name in ("loadtest-master", "loadtest-worker"):
        service = services[name]
        assert service["entrypoint"] == ["locust", "-f", "/opt/loadtest/locustfile.py"]
        command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest/locustfile.py")]
        done = subprocess.run(
            [*command, *service["command"], "--list"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "ModelTraffic" in done.stdout + done.stderr
