"""Every overlay, and components on overlays: rendered, valid, whole, and as tight as we say."""

import re

import pytest
import yaml

from tests.unit.deploy.kubernetes import budgets, pod_security, references
from tests.unit.deploy.kubernetes.manifests import (
    COMPOSED,
    DEPLOYMENTS,
    K8S,
    OVERLAYS,
    ROOT,
    named,
    of_kind,
    pods,
    quantity,
    render,
    rendered,
)

CUSTOM_KINDS = {"LeaderWorkerSet", "PrometheusRule", "ScaledObject", "ServiceMonitor"}
OLDEST, NEWEST = "1.30", "1.37"
"""Versions of Kubernetes: preStop.sleep is on from 1.30; 1.37 is the newest schema at hand."""

every_deployment = pytest.mark.parametrize("deployment", DEPLOYMENTS)


def test_every_folder_is_looked_at():
    folders = {folder.name for folder in (K8S / "overlays").iterdir()}
    assert folders == set(OVERLAYS)
    used = {name for _, components in COMPOSED.values() for name in components}
    assert used == {folder.name for folder in (K8S / "components").iterdir()}


@every_deployment
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_is_valid(deployment, version):
    validate = pytest.importorskip("kubernetes_validate").validate
    manifests = rendered(deployment)
    assert manifests
    for manifest in manifests:
        if manifest["kind"] not in CUSTOM_KINDS:
            assert validate(manifest, version, strict=True) == version


@every_deployment
def test_the_restricted_pod_security_standard_holds(deployment):
    assert list(pod_security.findings(rendered(deployment))) == []


@every_deployment
def test_everything_that_is_named_is_there(deployment):
    assert list(references.findings(rendered(deployment))) == []


@every_deployment
def test_times_and_sizes_fit(deployment):
    assert list(budgets.findings(rendered(deployment))) == []


@every_deployment
def test_everything_is_in_the_one_namespace(deployment):
    assert {one["metadata"]["namespace"] for one in rendered(deployment)} == {"dpace"}


@every_deployment
def test_no_secret_is_in_what_is_applied(deployment):
    assert of_kind(rendered(deployment), "Secret") == []


def test_pods_of_the_namespace_are_held_to_the_standard():
    namespace = yaml.safe_load((K8S / "namespace.yaml").read_text(encoding="utf-8"))
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert namespace["metadata"]["name"] == "dpace"


def test_by_default_nothing_comes_in_or_goes_out():
    deny = named(rendered("gpu"), "NetworkPolicy", "dpace-default-deny")
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_without_the_hub_the_server_gets_no_further_than_dns():
    reached = [
        (policy["metadata"]["name"], port["port"])
        for policy in of_kind(rendered("production"), "NetworkPolicy")
        for rule in policy["spec"].get("egress", [])
        for port in rule["ports"]
    ]
    assert reached == [("dpace-dns", 53), ("dpace-dns", 53)]


def test_prometheus_and_clients_each_reach_their_own_port():
    ports = {
        policy["metadata"]["name"]: [
            port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]
        ]
        for policy in of_kind(rendered("gpu"), "NetworkPolicy")
        if "ingress" in policy["spec"]
    }
    assert ports == {"dpace-serve-clients": [8000], "dpace-serve-prometheus": [8001]}


def test_as_many_gpus_as_the_engine_is_told_of():
    # 4 in one pod; 2 nodes of 4 make the 8 of tensor parallelism.
    (alone,) = pods(rendered("gpu-tensor-parallel"))
    (container,) = alone.containers
    assert 'engine_args=[--tensor-parallel-size, "4"]' in container["args"]
    assert quantity(container["resources"]["limits"]["nvidia.com/gpu"]) == 4
    group = named(rendered("multi-node"), "LeaderWorkerSet", "dpace-serve")
    assert group["spec"]["leaderWorkerTemplate"]["size"] == 2
    for pod in pods([group]):
        (container,) = pod.containers
        assert quantity(container["resources"]["limits"]["nvidia.com/gpu"]) == 4
        assert "tensor-parallel-size" in " ".join(container["args"])


def test_another_configuration_is_another_name():
    # Else a change of serve.yaml would start no roll-out.
    (config,) = of_kind(rendered("cpu"), "ConfigMap")
    assert config["metadata"]["name"] != "dpace-serve-config"


def test_a_worker_holds_no_keys():
    (worker,) = (pod for pod in pods(rendered("multi-node")) if pod.where.endswith("worker"))
    assert not any("secret" in volume for volume in worker.spec["volumes"])


def test_a_misspelt_field_is_invalid():
    validate = pytest.importorskip("kubernetes_validate")
    (service, *_) = of_kind(rendered("cpu"), "Service")
    service["spec"]["prots"] = service["spec"].pop("ports")
    with pytest.raises(validate.ValidationError):
        validate.validate(service, NEWEST, strict=True)


def test_the_overlay_of_the_readme_can_be_rendered(tmp_path):
    readme = (K8S / "README.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.+?)```", readme, flags=re.DOTALL)
    overlay, digest = tmp_path / "mine", "sha256:" + "0" * 64
    overlay.mkdir()
    (tmp_path / "dpace-serve").symlink_to(ROOT)
    (overlay / "kustomization.yaml").write_text(text.replace("sha256:...", digest))
    settings = (K8S / "base" / "serve.yaml").read_text(encoding="utf-8")
    (overlay / "serve.yaml").write_text(settings.replace("_seconds: 120", "_seconds: 60"))
    manifests = [one for one in yaml.safe_load_all(render(overlay)) if one]
    for module in (pod_security, references, budgets):
        assert list(module.findings(manifests)) == []
    (pod,) = pods(manifests)
    assert pod.spec["containers"][0]["image"] == f"registry.example.com/dpace-serve@{digest}"
    assert named(manifests, "Deployment", "dpace-serve")["spec"]["replicas"] == 2
    (config,) = (one for one in of_kind(manifests, "ConfigMap") if "serve.yaml" in one["data"])
    assert "shutdown_timeout_seconds: 60" in config["data"]["serve.yaml"]
