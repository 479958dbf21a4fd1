"""The Dockerfiles: pinned, without root, and every command in them is one that there is."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.unit.deploy.dockerfile_rules import environment, faults, final_stage, instructions, the

ROOT = Path(__file__).parents[3]
DOCKER = ROOT / "deploy" / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
SERVERS = [DOCKER / "vllm-cpu.Dockerfile", DOCKER / "vllm-cuda.Dockerfile"]
CPU = SERVERS[0].read_text(encoding="utf-8")
HADOLINT = Path(sys.executable).with_name("hadolint")

MISTAKES = {
    "a base without a version": ("python:3.11.14-slim-bookworm", "python:latest"),
    "a base with half a version": ("python:3.11.14-slim-bookworm", "python:3.11-slim-bookworm"),
    "root": ("USER 10001:10001", "USER 0:0"),
    "a user by name": ("USER 10001:10001", "USER dpace"),
    "no user": ("USER 10001:10001\n", ""),
    "no health check": ("HEALTHCHECK", "# HEALTHCHECK"),
    "a health check of a shell": ('CMD ["python", "/opt/dpace/health.py"', 'CMD curl ["'),
    "an entry point of a shell": ('ENTRYPOINT ["dpace"]', "ENTRYPOINT dpace"),
    "a command of a shell": ('CMD ["serve"', 'CMD serve ["'),
    "packages without hashes": ('"install", "--require-hashes",', '"install",'),
    "a signal that does not drain": ("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL"),
    "a label less": ("org.opencontainers.image.revision", "revision"),
}  # fmt: skip


@pytest.fixture(params=DOCKERFILES, ids=lambda file: file.stem)
def dockerfile(request) -> str:
    return request.param.read_text(encoding="utf-8")


def linted(file: Path) -> subprocess.CompletedProcess:
    if not HADOLINT.exists():
        pytest.skip("hadolint is not installed")
    return subprocess.run(
        [HADOLINT, "--no-color", file], capture_output=True, text=True, check=False
    )


def test_there_are_three_images():
    assert {file.stem for file in DOCKERFILES} == {"loadtest", "vllm-cpu", "vllm-cuda"}


def test_every_image_keeps_to_the_rules(dockerfile):
    assert faults(dockerfile) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_an_image_is_found(mistake):
    right, wrong = MISTAKES[mistake]
    assert right in CPU
    assert len(faults(CPU.replace(right, wrong))) >= 1


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_the_linter_has_nothing_to_say(file):
    done = linted(file)
    assert done.returncode == 0, done.stdout


def test_the_linter_finds_a_package_cache_that_stays(tmp_path):
    file = tmp_path / "Dockerfile"
    file.write_text(CPU.replace(" && rm -rf /var/lib/apt/lists/* \\\n", ""), encoding="utf-8")
    assert "DL3009" in linted(file).stdout


def test_everything_copied_is_in_the_repository_and_in_the_context(dockerfile):
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    copies = [
        one.words
        for one in instructions(dockerfile)
        if one.name == "COPY" and not one.words.startswith("--from")
    ]
    assert copies
    for words in copies:
        for source in words.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert {source, *map(str, Path(source).parents)} & kept, source


def test_no_key_and_no_result_is_in_the_context():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    for secret in ("deploy", "deploy/secrets", "deploy/.env", "deploy/data", ".git", "work"):
        assert secret not in kept
    assert {"**/*.key", "**/*.pem"} <= set(ignored)


@pytest.mark.parametrize("file", SERVERS, ids=lambda file: file.stem)
def test_every_cache_lies_in_the_one_folder_that_is_written(file):
    variables = environment(file.read_text(encoding="utf-8"))
    caches = {"HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "NUMBA_CACHE_DIR",
              "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"}  # fmt: skip
    assert caches <= variables.keys()
    for name in caches:
        assert Path(variables[name]).is_relative_to("/var/cache/dpace"), name


def test_no_image_opens_every_gpu_to_who_asked_for_none():
    for file in DOCKERFILES:
        assert "NVIDIA_VISIBLE_DEVICES" not in environment(file.read_text(encoding="utf-8"))


def test_only_the_image_that_compiles_kernels_has_a_compiler():
    installed = {
        file.stem: set(
            re.search(r"--no-install-recommends ([^&]*)", run.words)[1].split()
            if "apt-get" in run.words
            else ()
        )
        for file in DOCKERFILES
        for run in [the("RUN", final_stage(file.read_text(encoding="utf-8")))]
    }
    assert installed == {
        "loadtest": set(),
        "vllm-cpu": {"libnuma1"},
        "vllm-cuda": {"g++", "libnuma1"},
    }


def test_the_entry_point_is_the_command_of_this_package(dockerfile):
    with (ROOT / "pyproject.toml").open("rb") as file:
        scripts = tomllib.load(file)["project"]["scripts"]
    assert the("ENTRYPOINT", final_stage(dockerfile)).array() == ["dpace"]
    assert "dpace" in scripts


def test_the_command_of_the_load_test_image_runs():
    stage = final_stage((DOCKER / "loadtest.Dockerfile").read_text(encoding="utf-8"))
    arguments = the("CMD", stage).array()
    done = subprocess.run(
        [sys.executable, "-m", "dpace_serve.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--scenario" in done.stdout
