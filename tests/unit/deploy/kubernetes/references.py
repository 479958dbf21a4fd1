"""What one object says of another: volumes, keys, selectors, ports, routes, images."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from tests.unit.deploy.kubernetes.manifests import Manifest, Pod, named, of_kind, pods

MADE_BY_HAND = {
    "Secret": {"dpace-keys", "dpace-loadtest-key"},
    "PersistentVolumeClaim": {"dpace-models"},
}
"""Documented in deploy/k8s/README.md, and in no overlay."""
OTHER_OVERLAYS = ("dpace-serve",)
"""Name of pods that a policy may speak of and that another overlay makes."""
OPEN_WITHOUT_A_KEY = {"/health"}
SERVE = "dpace-serve"


def findings(manifests: Sequence[Manifest]) -> Iterator[str]:
    """What points to nothing, or to something else than it says."""
    for pod in pods(manifests):
        for check in (_mounts, _sources, _account, _probes, _images):
            yield from (f"{pod.where}: {finding}" for finding in check(pod, manifests))
    yield from _selectors(manifests)
    yield from _services(manifests)
    yield from _policies(manifests)
    yield from _served_ports(manifests)


def _mounts(pod: Pod, _: Sequence[Manifest]) -> Iterator[str]:
    volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
    mounted = [mount for one in pod.containers for mount in one.get("volumeMounts", [])]
    for name in {mount["name"] for mount in mounted} - volumes:
        yield f"mounts {name}, which is no volume"
    for name in volumes - {mount["name"] for mount in mounted}:
        yield f"nothing mounts the volume {name}"
    for container in pod.containers:
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        if len(set(paths)) < len(paths):
            yield "mounts two volumes at one path"


def _sources(pod: Pod, manifests: Sequence[Manifest]) -> Iterator[str]:
    for volume in pod.spec.get("volumes", []):
        for kind, name in _named_by(volume):
            made = {one["metadata"]["name"] for one in of_kind(manifests, kind)}
            if name not in made | MADE_BY_HAND.get(kind, set()):
                yield f"volume {volume['name']} needs {kind} {name}, which nobody makes"
        if "secret" in volume and volume["secret"].get("defaultMode") != 0o440:
            yield f"volume {volume['name']} is not of mode 0440"


def _named_by(volume: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "configMap" in volume:
        yield "ConfigMap", volume["configMap"]["name"]
    if "secret" in volume:
        yield "Secret", volume["secret"]["secretName"]
    if "persistentVolumeClaim" in volume:
        yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]


def _account(pod: Pod, manifests: Sequence[Manifest]) -> Iterator[str]:
    accounts = {one["metadata"]["name"]: one for one in of_kind(manifests, "ServiceAccount")}
    account = accounts.get(pod.spec.get("serviceAccountName", ""))
    if account is None or account.get("automountServiceAccountToken") is not False:
        yield "its service account is not one of ours without a token"


def _probes(pod: Pod, _: Sequence[Manifest]) -> Iterator[str]:
    for container in pod.containers:
        ports = {port["name"] for port in container.get("ports", [])}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            if kind not in container:
                if "http" in ports:
                    yield f"{container['name']} has no {kind}"
                continue
            probe = container[kind]["httpGet"]
            if probe["port"] not in ports:
                yield f"{kind} asks port {probe['port']}, which is not there"
            if probe["path"] not in OPEN_WITHOUT_A_KEY:
                yield f"{kind} asks {probe['path']}, which needs a key"


def _images(pod: Pod, _: Sequence[Manifest]) -> Iterator[str]:
    for image in (container["image"] for container in pod.containers):
        found = re.fullmatch(r"[^@\s]+?(:(?P<tag>[\w.-]+))?(@sha256:[0-9a-f]{64})?", image)
        pinned = found is not None and ("@" in image or found["tag"])
        if not pinned or found["tag"] == "latest":
            yield f"the image {image} is not pinned"


def _selectors(manifests: Sequence[Manifest]) -> Iterator[str]:
    for deployment in of_kind(manifests, "Deployment"):
        spec = deployment["spec"]
        if not _matches(spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]):
            yield f"Deployment {deployment['metadata']['name']} does not select its pods"
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        if not _selected(budget["spec"]["selector"]["matchLabels"], manifests):
            yield f"PodDisruptionBudget {budget['metadata']['name']} selects no pod"
    for pod in pods(manifests):
        for spread in pod.spec.get("topologySpreadConstraints", []):
            if not _matches(spread["labelSelector"]["matchLabels"], pod.labels):
                yield f"{pod.where}: is spread by labels that it does not have"


def _services(manifests: Sequence[Manifest]) -> Iterator[str]:
    for service in of_kind(manifests, "Service"):
        name = service["metadata"]["name"]
        selected = _selected(service["spec"]["selector"], manifests)
        if not selected:
            yield f"Service {name} selects no pod"
        for pod in selected:
            ports = _ports(pod)
            for port in service["spec"]["ports"]:
                if ports.get(port["targetPort"]) != port["port"]:
                    yield f"Service {name}: {pod.where} has no port {port['targetPort']}"


def _policies(manifests: Sequence[Manifest]) -> Iterator[str]:
    for policy in of_kind(manifests, "NetworkPolicy"):
        name, spec = policy["metadata"]["name"], policy["spec"]
        labels = spec["podSelector"].get("matchLabels", {})
        elsewhere = labels.get("app.kubernetes.io/name") in OTHER_OVERLAYS
        selected = _selected(labels, manifests)
        if not selected and not elsewhere:
            yield f"NetworkPolicy {name} selects no pod"
        open_ports = {port for pod in selected for port in _ports(pod).values()}
        for rule in spec.get("ingress", []):
            if not rule.get("from"):
                yield f"NetworkPolicy {name} lets everybody in"
            for port in {one["port"] for one in rule.get("ports", [])} - open_ports:
                if selected:
                    yield f"NetworkPolicy {name} opens {port}, on which nobody listens"
        if any(not rule.get("to") for rule in spec.get("egress", [])):
            yield f"NetworkPolicy {name} lets out to everywhere"


def _served_ports(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Ports of the server's containers against those of the settings that they are started with."""
    for pod in pods(manifests):
        for volume in pod.spec.get("volumes", []):
            config = volume.get("configMap", {}).get("name", "")
            if not config.startswith(f"{SERVE}-config"):
                continue
            data = named(manifests, "ConfigMap", config)["data"]
            settings = yaml.safe_load(data["serve.yaml"])
            expected = {"http": settings["port"], "observation": settings["observation"]["port"]}
            if _ports(pod) != expected:
                yield f"{pod.where}: its ports {_ports(pod)} are not those of serve.yaml"


def _ports(pod: Pod) -> dict[str, int]:
    return {
        port["name"]: port["containerPort"]
        for one in pod.containers
        for port in one.get("ports", [])
    }


def _selected(labels: dict[str, str], manifests: Sequence[Manifest]) -> list[Pod]:
    return [pod for pod in pods(manifests) if _matches(labels, pod.labels)]


def _matches(wanted: dict[str, str], labels: dict[str, str]) -> bool:
    return wanted.items() <= labels.items()
