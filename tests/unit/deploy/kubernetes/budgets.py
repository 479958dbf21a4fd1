"""Sums that must come out: time to stop, time to start, memory, disk and GPUs."""

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from tests.unit.deploy.kubernetes.manifests import Manifest, Pod, named, of_kind, pods, quantity

SECONDS_TO_END = 20
"""After the last answer: 10 for the drafts of shadows, the rest for logs, metrics and processes."""
SMALLEST_SERVER_BYTES = 3 * 2**30
"""What the bundled models take on a CPU beside the KV cache, with room for oneDNN's cache."""
LONGEST_KNOWN_START_SECONDS = 300
"""Of the bundled models on a busy CPU; a start with real weights takes longer."""
HPA_LONGEST_PERIOD_SECONDS = 1800


def findings(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Where something does not fit into what it must fit into."""
    for pod in pods(manifests):
        for check in (_stop, _start, _resources, _disk):
            yield from (f"{pod.where}: {finding}" for finding in check(pod, manifests))
    yield from _groups(manifests)
    yield from _rollouts(manifests)
    yield from _scaling(manifests)


def _shutdown_seconds(manifests: Sequence[Manifest]) -> int:
    (config,) = (
        one for one in of_kind(manifests, "ConfigMap") if "serve.yaml" in one.get("data", {})
    )
    return int(yaml.safe_load(config["data"]["serve.yaml"])["shutdown_timeout_seconds"])


def _is_server(pod: Pod) -> bool:
    return any("readinessProbe" in container for container in pod.containers)


def pre_stop_seconds(pod: Pod) -> int:
    """How long the pod serves on before it is told to stop."""
    return sum(
        container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        for container in pod.spec["containers"]
    )


def _stop(pod: Pod, manifests: Sequence[Manifest]) -> Iterator[str]:
    if not _is_server(pod):
        return
    needed = pre_stop_seconds(pod) + _shutdown_seconds(manifests) + SECONDS_TO_END
    given = pod.spec.get("terminationGracePeriodSeconds", 30)
    if given < needed:
        yield f"is killed after {given} s, but needs {needed} s to stop"
    if pre_stop_seconds(pod) < 5:
        yield "stops before proxies have heard of it"


def _start(pod: Pod, manifests: Sequence[Manifest]) -> Iterator[str]:
    if not _is_server(pod):
        return
    (container,) = pod.spec["containers"]
    if start_seconds(container) < LONGEST_KNOWN_START_SECONDS:
        yield f"is restarted after {start_seconds(container)} s of its start"
    liveness = container["livenessProbe"]
    if liveness["periodSeconds"] * liveness["failureThreshold"] < 300:
        yield "is restarted when it is slow"
    if liveness["periodSeconds"] * liveness["failureThreshold"] <= _shutdown_seconds(manifests):
        yield "is restarted while it drains"


def start_seconds(container: dict[str, Any]) -> int:
    """How long the container may take to start."""
    probe = container["startupProbe"]
    return int(probe["periodSeconds"] * probe["failureThreshold"])


def _resources(pod: Pod, _: Sequence[Manifest]) -> Iterator[str]:
    in_memory = sum(
        quantity(volume["emptyDir"]["sizeLimit"])
        for volume in pod.spec.get("volumes", [])
        if volume.get("emptyDir", {}).get("medium") == "Memory"
    )
    for container in pod.containers:
        name, given = container["name"], container.get("resources", {})
        requests, limits = given.get("requests", {}), given.get("limits", {})
        if not {"cpu", "memory", "ephemeral-storage"} <= set(requests):
            yield f"{name} does not request CPU, memory and disk"
        if requests.get("memory") is None or requests.get("memory") != limits.get("memory"):
            yield f"{name} may be killed by another pod's memory: its request is not its limit"
        gpus = requests.get("nvidia.com/gpu"), limits.get("nvidia.com/gpu")
        if gpus[0] != gpus[1]:
            yield f"{name} requests {gpus[0]} GPUs with a limit of {gpus[1]}"
        if "readinessProbe" in container:
            cache = {one["name"]: one.get("value") for one in container["env"]}
            needed = SMALLEST_SERVER_BYTES + in_memory
            needed += 2**30 * int(cache.get("VLLM_CPU_KVCACHE_SPACE", 0))
            if quantity(limits.get("memory", 0)) < needed:
                yield f"{name} has less memory than /dev/shm, KV cache and the server together"


def _disk(pod: Pod, _: Sequence[Manifest]) -> Iterator[str]:
    for volume in pod.spec.get("volumes", []):
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"volume {volume['name']} has no limit"
    on_disk = sum(
        quantity(volume["emptyDir"].get("sizeLimit", 0))
        for volume in pod.spec.get("volumes", [])
        if volume.get("emptyDir", {}).get("medium") != "Memory" and "emptyDir" in volume
    )
    limits = [
        quantity(one.get("resources", {}).get("limits", {}).get("ephemeral-storage", 0))
        for one in pod.spec["containers"]
    ]
    if sum(limits) < on_disk:
        yield "is evicted before its volumes are full"


def _groups(manifests: Sequence[Manifest]) -> Iterator[str]:
    """A worker must outlast its leader's answers."""
    if not of_kind(manifests, "LeaderWorkerSet"):
        return
    leader, worker = (
        next(pod for pod in pods(manifests) if pod.where.endswith(role))
        for role in ("leader", "worker")
    )
    answers = pre_stop_seconds(leader) + _shutdown_seconds(manifests)
    if pre_stop_seconds(worker) < answers:
        yield f"{worker.where}: stops before the leader's answers have ended ({answers} s)"
    if worker.spec["terminationGracePeriodSeconds"] <= pre_stop_seconds(worker):
        yield f"{worker.where}: its preStop does not fit into its grace period"


def _rollouts(manifests: Sequence[Manifest]) -> Iterator[str]:
    updates = [
        (deployment, deployment["spec"]["strategy"]["rollingUpdate"])
        for deployment in of_kind(manifests, "Deployment")
    ] + [
        (group, group["spec"]["rolloutStrategy"]["rollingUpdateConfiguration"])
        for group in of_kind(manifests, "LeaderWorkerSet")
    ]
    for manifest, update in updates:
        if (update["maxSurge"], update["maxUnavailable"]) != (0, 1):
            yield f"{manifest['metadata']['name']}: a roll-out waits for a GPU that none frees"
    for deployment in of_kind(manifests, "Deployment"):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        if deployment["spec"]["progressDeadlineSeconds"] <= start_seconds(container):
            yield f"{deployment['metadata']['name']}: a slow start is called a failed roll-out"


def _scaling(manifests: Sequence[Manifest]) -> Iterator[str]:
    for scaled in of_kind(manifests, "ScaledObject"):
        target = scaled["spec"]["scaleTargetRef"]
        workload = named(manifests, target["kind"], target["name"])
        if "replicas" in workload["spec"]:
            yield "the autoscaler and the overlay both set the number of replicas"
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        start = start_seconds(container)
        behaviour = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        periods = [one["periodSeconds"] for one in behaviour["scaleUp"]["policies"]]
        if min(periods) < start:
            yield f"another replica is added before the last one has started ({start} s)"
        if max(periods) > HPA_LONGEST_PERIOD_SECONDS:
            yield "a period is longer than Kubernetes allows"
        if behaviour["scaleDown"]["stabilizationWindowSeconds"] < start:
            yield f"a replica is dropped before it has started ({start} s)"
