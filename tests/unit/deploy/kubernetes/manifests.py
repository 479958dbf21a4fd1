"""Renders the overlays of deploy/k8s as a cluster would get them, and finds the pods in them."""

import copy
import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

Manifest = dict[str, Any]

ROOT = Path(__file__).parents[4]
K8S = ROOT / "deploy" / "k8s"
OVERLAYS = ("cpu", "gpu", "gpu-tensor-parallel", "multi-node", "production", "loadtest")

COMPOSED = {
    "cpu, watched and scaled": ("cpu", ("monitoring", "autoscaling")),
    "tensor-parallel, watched and scaled": (
        "gpu-tensor-parallel",
        ("monitoring", "autoscaling"),
    ),
    "multi-node, watched": ("multi-node", ("monitoring",)),
    "gpu, with the hub": ("gpu", ("hub",)),
}
"""Components on overlays, as a user puts them together."""

DEPLOYMENTS = (*OVERLAYS, *COMPOSED)

_UNITS = {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that a rendered object makes."""

    where: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """Those that run, and those that run before."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def kubectl() -> str:
    """The command; skips the test where there is none that can render."""
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl is not installed")
    said = subprocess.run(
        [found, "version", "--client"], capture_output=True, text=True, check=True
    ).stdout
    version = re.search(r"Kustomize Version: v(\d+)", said)
    if version is None or int(version[1]) < 5:
        pytest.skip("kubectl has no kustomize 5: it needs kubectl 1.27 or newer")
    return found


@functools.cache
def rendered_text(deployment: str) -> str:
    """YAML of an overlay, or of one of COMPOSED."""
    if deployment in OVERLAYS:
        return render(K8S / "overlays" / deployment)
    overlay, components = COMPOSED[deployment]
    with tempfile.TemporaryDirectory() as folder:
        return render(composed(Path(folder), overlay, components))


def rendered(deployment: str) -> list[Manifest]:
    """Fresh objects: a test may change them."""
    return copy.deepcopy(_parsed(deployment))


@functools.cache
def _parsed(deployment: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(rendered_text(deployment)) if document]


def composed(folder: Path, overlay: str, components: Sequence[str]) -> Path:
    """A folder with the kustomization that puts components on an overlay."""
    k8s = Path(os.path.relpath(K8S, folder.resolve()))
    text = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "dpace",
        "resources": [str(k8s / "overlays" / overlay)],
        "components": [str(k8s / "components" / name) for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(text), encoding="utf-8")
    return folder


def pods(manifests: Sequence[Manifest]) -> list[Pod]:
    """Every pod of every workload."""
    return [pod for manifest in manifests for pod in _pods_of(manifest)]


def of_kind(manifests: Sequence[Manifest], kind: str) -> list[Manifest]:
    """The objects of one kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def named(manifests: Sequence[Manifest], kind: str, name: str) -> Manifest:
    """The one object of this kind and name."""
    (found,) = (one for one in of_kind(manifests, kind) if one["metadata"]["name"] == name)
    return found


def quantity(value: str | int | float) -> float:
    """A Kubernetes quantity as a number: bytes, cores or pieces."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", str(value))
    assert found is not None, value
    return float(found[1]) * _UNITS[found[2]]


def render(folder: Path) -> str:
    """YAML of a folder with a kustomization; a warning is a failure."""
    done = subprocess.run(
        [kubectl(), "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # warnings of deprecated fields
    return done.stdout


def _pods_of(manifest: Manifest) -> Iterator[Pod]:
    where, spec = f"{manifest['kind']} {manifest['metadata']['name']}", manifest.get("spec", {})
    if manifest["kind"] == "LeaderWorkerSet":
        templates = {
            f"{where} {role}": spec["leaderWorkerTemplate"][f"{role}Template"]
            for role in ("leader", "worker")
        }
    else:
        templates = {where: spec["template"]} if "template" in spec else {}
    for name, template in templates.items():
        yield Pod(name, template["metadata"]["labels"], template["spec"])
