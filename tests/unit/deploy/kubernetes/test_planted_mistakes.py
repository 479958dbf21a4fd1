"""Each check is seen to find a mistake that was made on purpose, and nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.unit.deploy.kubernetes import budgets, pod_security, references
from tests.unit.deploy.kubernetes.manifests import Manifest, named, of_kind, rendered

Plant = Callable[[list[Manifest]], object]


def at(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets what is at a path."""

    def plant(inner: Any) -> None:
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value

    return plant


def without(*path: str | int) -> Callable[[dict[str, Any]], None]:
    """Removes what is at a path."""

    def plant(inner: Any) -> None:
        for step in path[:-1]:
            inner = inner[step]
        del inner[path[-1]]

    return plant


def pod(plant: Callable[[dict[str, Any]], object]) -> Plant:
    return lambda manifests: plant(
        named(manifests, "Deployment", "dpace-serve")["spec"]["template"]["spec"]
    )


def container(plant: Callable[[dict[str, Any]], object]) -> Plant:
    return pod(lambda spec: plant(spec["containers"][0]))


def one(kind: str, name: str, plant: Callable[[dict[str, Any]], object]) -> Plant:
    return lambda manifests: plant(named(manifests, kind, name))


def volume(name: str, plant: Callable[[dict[str, Any]], object]) -> Plant:
    return pod(lambda spec: plant(next(v for v in spec["volumes"] if v["name"] == name)))


def settings(**changed: Any) -> Plant:
    def plant(manifests: list[Manifest]) -> None:
        (config,) = (m for m in of_kind(manifests, "ConfigMap") if "serve.yaml" in m["data"])
        text = yaml.safe_load(config["data"]["serve.yaml"]) | changed
        config["data"]["serve.yaml"] = yaml.safe_dump(text)

    return plant


def worker(plant: Callable[[dict[str, Any]], object]) -> Plant:
    return lambda manifests: plant(
        of_kind(manifests, "LeaderWorkerSet")[0]["spec"]["leaderWorkerTemplate"]["workerTemplate"][
            "spec"
        ]
    )


BEHAVIOUR = ("spec", "advanced", "horizontalPodAutoscalerConfig", "behavior")

SECURITY = {
    "hostNetwork is set": pod(at("hostNetwork", value=True)),
    "hostIPC is set": pod(at("hostIPC", value=True)),
    "volume tmp is of a forbidden type": pod(
        at("volumes", -1, value={"name": "tmp", "hostPath": {"path": "/var"}})
    ),
    "sysctls are set": pod(at("securityContext", "sysctls", value=[{"name": "kernel.msgmax"}])),
    "the groups are not its own": pod(at("securityContext", "runAsGroup", value=0)),
    "a token of the service account is mounted": pod(without("automountServiceAccountToken")),
    "is privileged": container(at("securityContext", "privileged", value=True)),
    "may escalate privileges": container(without("securityContext", "allowPrivilegeEscalation")),
    "may run as root": container(at("securityContext", "runAsNonRoot", value=False)),
    "does not run as 10001": pod(without("securityContext", "runAsUser")),
    "has no seccomp profile": pod(without("securityContext", "seccompProfile")),
    "keeps capabilities": container(at("securityContext", "capabilities", value={"drop": []})),
    "adds capabilities": container(
        at("securityContext", "capabilities", "add", value=["IPC_LOCK"])
    ),
    "has an unmasked /proc": container(at("securityContext", "procMount", value="Unmasked")),
    "has another SELinux type": container(
        at("securityContext", "seLinuxOptions", value={"type": "spc_t"})
    ),
    "has no AppArmor profile": container(
        at("securityContext", "appArmorProfile", value={"type": "Unconfined"})
    ),
    "takes a port of the host": container(at("ports", 0, "hostPort", value=8000)),
    "may write to its image": container(without("securityContext", "readOnlyRootFilesystem")),
}

REFERENCES = {
    "mounts tmp2, which is no volume": container(at("volumeMounts", -1, "name", value="tmp2")),
    "nothing mounts the volume tmp": container(
        lambda it: it.update(volumeMounts=[m for m in it["volumeMounts"] if m["name"] != "tmp"])
    ),
    "mounts two volumes at one path": container(
        at("volumeMounts", 0, "mountPath", value="/models")
    ),
    "needs ConfigMap other, which nobody makes": volume(
        "config", at("configMap", "name", value="other")
    ),
    "needs Secret other, which nobody makes": volume(
        "keys", at("secret", "secretName", value="other")
    ),
    "volume keys is not of mode 0440": volume("keys", at("secret", "defaultMode", value=0o444)),
    "its service account is not one of ours": pod(at("serviceAccountName", value="default")),
    "has no readinessProbe": container(without("readinessProbe")),
    "asks port htpp, which is not there": container(
        at("livenessProbe", "httpGet", "port", value="htpp")
    ),
    "asks /metrics, which needs a key": container(
        at("readinessProbe", "httpGet", "path", value="/metrics")
    ),
    "the image dpace-serve:latest is not pinned": container(
        at("image", value="dpace-serve:latest")
    ),
    "the image host:5000/dpace-serve is not pinned": container(
        at("image", value="host:5000/dpace-serve")
    ),
    "does not select its pods": one(
        "Deployment", "dpace-serve", at("spec", "selector", "matchLabels", value={"app": "x"})
    ),
    "PodDisruptionBudget dpace-serve selects no pod": one(
        "PodDisruptionBudget",
        "dpace-serve",
        at("spec", "selector", "matchLabels", value={"app": "x"}),
    ),
    "is spread by labels that it does not have": pod(
        at("topologySpreadConstraints", 0, "labelSelector", "matchLabels", value={"app": "x"})
    ),
    "Service dpace-serve selects no pod": one(
        "Service", "dpace-serve", at("spec", "selector", value={"app": "x"})
    ),
    "has no port http2": one(
        "Service", "dpace-serve", at("spec", "ports", 0, "targetPort", value="http2")
    ),
    "NetworkPolicy dpace-serve-clients selects no pod": one(
        "NetworkPolicy",
        "dpace-serve-clients",
        at("spec", "podSelector", value={"matchLabels": {"a": "b"}}),
    ),
    "NetworkPolicy dpace-serve-clients opens 8080": one(
        "NetworkPolicy",
        "dpace-serve-clients",
        at("spec", "ingress", 0, "ports", 0, "port", value=8080),
    ),
    "NetworkPolicy dpace-serve-clients lets everybody in": one(
        "NetworkPolicy", "dpace-serve-clients", without("spec", "ingress", 0, "from")
    ),
    "NetworkPolicy dpace-dns lets out to everywhere": one(
        "NetworkPolicy", "dpace-dns", without("spec", "egress", 0, "to")
    ),
    "are not those of serve.yaml": settings(port=8080),
}

BUDGETS = {
    "is killed after 100 s, but needs 155 s": pod(at("terminationGracePeriodSeconds", value=100)),
    "is killed after 165 s, but needs 235 s": settings(shutdown_timeout_seconds=200),
    "stops before proxies have heard of it": container(without("lifecycle")),
    "is restarted after 90 s of its start": container(
        at("startupProbe", "failureThreshold", value=9)
    ),
    "is restarted when it is slow": container(at("livenessProbe", "failureThreshold", value=3)),
    "is restarted while it drains": settings(shutdown_timeout_seconds=300),
    "does not request CPU, memory and disk": container(without("resources", "requests", "cpu")),
    "its request is not its limit": container(at("resources", "limits", "memory", value="64Gi")),
    "requests 1 GPUs with a limit of 2": container(
        at("resources", "limits", "nvidia.com/gpu", value="2")
    ),
    "has less memory than /dev/shm": volume(
        "shared-memory", at("emptyDir", "sizeLimit", value="30Gi")
    ),
    "volume tmp has no limit": volume("tmp", at("emptyDir", value={})),
    "is evicted before its volumes are full": volume(
        "cache", at("emptyDir", "sizeLimit", value="40Gi")
    ),
    "a roll-out waits for a GPU": one(
        "Deployment", "dpace-serve", at("spec", "strategy", "rollingUpdate", "maxSurge", value=1)
    ),
    "a slow start is called a failed roll-out": one(
        "Deployment", "dpace-serve", at("spec", "progressDeadlineSeconds", value=600)
    ),
    "both set the number of replicas": one(
        "Deployment", "dpace-serve", at("spec", "replicas", value=1)
    ),
    "another replica is added before": one(
        "ScaledObject",
        "dpace-serve",
        at(*BEHAVIOUR, "scaleUp", "policies", 0, "periodSeconds", value=60),
    ),
    "a period is longer than Kubernetes allows": one(
        "ScaledObject",
        "dpace-serve",
        at(*BEHAVIOUR, "scaleUp", "policies", 0, "periodSeconds", value=3600),
    ),
    "a replica is dropped before it has started": one(
        "ScaledObject",
        "dpace-serve",
        at(*BEHAVIOUR, "scaleDown", "stabilizationWindowSeconds", value=300),
    ),
}

GROUP = {
    "stops before the leader's answers have ended (135 s)": worker(
        at("containers", 0, "lifecycle", "preStop", "sleep", "seconds", value=15)
    ),
    "its preStop does not fit into its grace period": worker(
        at("terminationGracePeriodSeconds", value=140)
    ),
}


@pytest.mark.parametrize("expected", SECURITY)
def test_what_the_security_standard_forbids_is_found(expected):
    assert_found(pod_security.findings, "production", SECURITY[expected], expected)


@pytest.mark.parametrize("expected", REFERENCES)
def test_what_points_to_nothing_is_found(expected):
    assert_found(references.findings, "production", REFERENCES[expected], expected)


@pytest.mark.parametrize("expected", BUDGETS)
def test_what_does_not_fit_is_found(expected):
    assert_found(budgets.findings, "production", BUDGETS[expected], expected)


@pytest.mark.parametrize("expected", GROUP)
def test_a_worker_that_leaves_its_leader_alone_is_found(expected):
    assert_found(budgets.findings, "multi-node", GROUP[expected], expected)


def assert_found(findings, deployment, plant, expected):
    manifests = rendered(deployment)
    assert list(findings(manifests)) == []
    plant(manifests)
    assert any(expected in finding for finding in findings(manifests)), list(findings(manifests))
