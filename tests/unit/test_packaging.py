"""What is published: agreeing versions, entry points that exist, a wheel with all and only ours."""

import ast
import re
import tomllib
import zipfile
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

import dpace_serve

ROOT = Path(__file__).parents[2]
PACKAGES = (
    ROOT / "dpace_serve",
    ROOT / "training" / "dpace_training",
    ROOT / "loadtest" / "dpace_loadtest",
)

ENTRY_POINTS = {
    ("console_scripts", "dpace"): "dpace_serve.cli:main",
    ("vllm.general_plugins", "dpace"): "dpace_serve.vllm_engine.plugin:register",
    ("sglang.srt.plugins", "dpace"): "dpace_serve.sglang_engine.plugin:register",
    ("vllm.endpoint_plugins", "dpace_http"): "dpace_serve.vllm_engine.plugin:AcceptanceEndpoint",
}


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory) -> set[str]:
    folder = tmp_path_factory.mktemp("dist")
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(built) as wheel:
        return set(wheel.namelist())


def test_the_top_entry_of_the_changelog_is_the_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", changelog, flags=re.MULTILINE)
    assert headings[0] == dpace_serve.__version__


def test_the_installed_entry_points_are_those_the_engine_is_told_about():
    installed = {(e.group, e.name): e.value for e in distribution("dpace-serve").entry_points}
    assert installed == ENTRY_POINTS


@pytest.mark.parametrize("value", ENTRY_POINTS.values(), ids=lambda value: value)
def test_an_entry_point_names_something_that_its_module_defines(value):
    # Read, not imported: the plugin module may import the engine, which takes ten seconds.
    module, name = value.split(":")
    spec = find_spec(module)
    assert spec is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert name in defined


def test_the_wheel_has_no_top_level_folder_but_the_packages(wheel_names):
    folders = {name.split("/")[0] for name in wheel_names}
    metadata = f"dpace_serve-{dpace_serve.__version__}.dist-info"
    assert folders == {"dpace_serve", "dpace_training", "dpace_loadtest", metadata}


def test_the_wheel_holds_every_file_of_the_packages(wheel_names):
    expected = {
        path.relative_to(package.parent).as_posix()
        for package in PACKAGES
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in wheel_names if ".dist-info/" not in name} == expected


def test_the_wheel_carries_the_licence(wheel_names):
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel_names)


def test_the_cpu_engine_is_no_dependency_and_the_cuda_engine_is_optional():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = " ".join(project["dependencies"])
    assert "vllm" not in required
    assert "torch" not in required
    assert project["optional-dependencies"]["vllm"] == ["vllm==0.32.0"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^VLLM_VERSION +:= 0\.32\.0$", makefile, flags=re.MULTILINE)
