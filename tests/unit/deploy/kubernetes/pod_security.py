"""The restricted Pod Security Standard of Kubernetes, and what we ask for beyond it.

Source:
    https://kubernetes.io/docs/concepts/security/pod-security-standards/, profiles Baseline and
    Restricted.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from tests.unit.deploy.kubernetes.manifests import Manifest, Pod, pods

USER = 10001
VOLUME_TYPES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip
PROFILES = {"RuntimeDefault", "Localhost"}
SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def findings(manifests: Sequence[Manifest]) -> Iterator[str]:
    """What the standard, or we, would refuse."""
    for pod in pods(manifests):
        yield from (f"{pod.where}: {finding}" for finding in _of_pod(pod))


def _of_pod(pod: Pod) -> Iterator[str]:
    spec, context = pod.spec, pod.spec.get("securityContext", {})
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} is set"
    for volume in spec.get("volumes", []):
        if not set(volume) - {"name"} <= VOLUME_TYPES:
            yield f"volume {volume['name']} is of a forbidden type"
    if context.get("sysctls"):
        yield "sysctls are set"
    if context.get("supplementalGroups") or context.get("runAsGroup") == 0:
        yield "the groups are not its own"
    if spec.get("automountServiceAccountToken") is not False:
        yield "a token of the service account is mounted"
    for container in pod.containers:
        yield from (f"{container['name']}: {one}" for one in _of_container(container, context))


def _of_container(container: dict[str, Any], of_pod: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    context, capabilities = of_pod | own, own.get("capabilities", {})
    ports, added = container.get("ports", []), set(capabilities.get("add", []))
    apparmor = context.get("appArmorProfile", {}).get("type", "RuntimeDefault")
    holds = {
        "is privileged": not context.get("privileged"),
        "may escalate privileges": own.get("allowPrivilegeEscalation") is False,
        "may run as root": context.get("runAsNonRoot") is True,
        f"does not run as {USER}": context.get("runAsUser") == USER,
        "has no seccomp profile": context.get("seccompProfile", {}).get("type") in PROFILES,
        "has no AppArmor profile": apparmor in PROFILES,
        "keeps capabilities": "ALL" in capabilities.get("drop", []),
        "adds capabilities": added <= {"NET_BIND_SERVICE"},
        "has an unmasked /proc": context.get("procMount", "Default") == "Default",
        "has another SELinux type": _selinux_type(context) in SELINUX_TYPES,
        "takes a port of the host": not any("hostPort" in port for port in ports),
        "may write to its image": own.get("readOnlyRootFilesystem") is True,
    }
    return (finding for finding, is_kept in holds.items() if not is_kept)


def _selinux_type(context: dict[str, Any]) -> str:
    return str(context.get("seLinuxOptions", {}).get("type", ""))
