"""The CPU image as compose runs it, without Docker: read-only, without root, without a compiler."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.engine.container import USER, Container, require_namespaces, start
from tests.unit.deploy.compose_rules import DEPLOY, health_check, mounts, read

pytestmark = [pytest.mark.engine, pytest.mark.long]

START_TIMEOUT_SECONDS = 400
ASK = """
import json, sys, urllib.request
body = {"model": "target", "prompt": "SELECT", "max_tokens": 8, "temperature": 0}
key = open("/run/secrets/api_keys").readline().strip()
headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
url = "http://127.0.0.1:8000/v1/completions"
request = urllib.request.Request(url, json.dumps(body).encode(), headers)
with urllib.request.urlopen(request) as answer:
    sys.stdout.write(answer.read().decode())
"""
STATUS = """
import sys, urllib.error, urllib.request
url, file = sys.argv[1:]
key = open(file).readline().strip() if file else "none"
request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
try:
    with urllib.request.urlopen(request) as answer:
        print(answer.status)
except urllib.error.HTTPError as error:
    print(error.code)
"""
WRITE = """
import os, sys
for folder in sys.argv[1:]:
    try:
        os.close(os.open(os.path.join(folder, "written"), os.O_CREAT | os.O_WRONLY))
        print(folder)
    except OSError:
        pass
"""


@pytest.fixture(scope="module")
def service() -> dict:
    return read((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]["server"]


@pytest.fixture(scope="module")
def server(service, tmp_path_factory):
    require_namespaces()
    made = tmp_path_factory.mktemp("made")
    subprocess.run([sys.executable, DEPLOY / "make_secrets.py", made], check=True)
    dockerfile = DEPLOY / "docker" / "vllm-cpu.Dockerfile"
    container = start(dockerfile, service, made / "secrets", tmp_path_factory.mktemp("container"))
    try:
        container.wait_until_healthy(health_check(service), START_TIMEOUT_SECONDS)
        yield container
    finally:
        container.stop()


def test_it_answers_with_a_key_of_make_secrets(server: Container):
    done = server.run("python", "-c", ASK)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["usage"]["completion_tokens"] == 8


@pytest.mark.parametrize(
    ("route", "key", "status"),
    [
        ("8001/metrics", "metrics_key", "200"),
        ("8001/metrics", "api_keys", "401"),
        ("8000/metrics", "metrics_key", "404"),
        ("8000/v1/models", "api_keys", "200"),
        ("8000/v1/models", "metrics_key", "401"),
        ("8001/dpace/acceptance", "api_keys", "200"),
        ("8001/dpace/acceptance", "", "401"),
    ],
)
def test_each_mounted_key_opens_its_own_routes(server: Container, route, key, status):
    file = f"/run/secrets/{key}" if key else ""
    done = server.run("python", "-c", STATUS, f"http://127.0.0.1:{route}", file)
    assert done.stdout.strip() == status, done.stderr


def test_it_runs_as_the_numeric_user_without_any_capability(server: Container):
    status = server.run("cat", "/proc/1/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == [str(USER)] * 4
    assert fields["NoNewPrivs"] == "1"
    assert {fields[name] for name in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}


def test_only_the_mounted_folders_can_be_written(server: Container, service):
    written = [target for target, source in mounts(service).items() if source is None]
    assert sorted(written) == ["/tmp", "/var/cache/dpace"]  # noqa: S108 - of the container
    folders = ["/", "/etc", "/opt/dpace", "/var/lib/dpace", "/models", *written, "/dev/shm"]  # noqa: S108
    done = server.run("python", "-c", WRITE, *folders)
    assert sorted(done.stdout.split()) == sorted([*written, "/dev/shm"])  # noqa: S108


def test_it_had_no_compiler(server: Container):
    done = server.run("gcc", "--version")
    assert done.returncode != 0


def test_sigterm_ends_it_in_order(server: Container):
    os.kill(server.first, signal.SIGTERM)
    assert server.process.wait(60) == 0, server.log.read_text()[-2000:]
