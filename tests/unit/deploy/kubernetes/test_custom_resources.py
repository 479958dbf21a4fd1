"""Objects of operators, whose schemas are not at hand: their fields by name, and by what they mean.

Source:
    prometheus-operator v1 (ServiceMonitor, PrometheusRule), KEDA 2.x (ScaledObject) and
    LeaderWorkerSet v1: their public API references.
"""

import json
import re
import subprocess
import sys

import promql_parser as promql
import pytest
import yaml

from dpace_serve.metrics import names
from tests.unit.deploy.kubernetes.manifests import (
    ROOT,
    named,
    of_kind,
    quantity,
    rendered,
    rendered_text,
)

PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARDS = ROOT / "deploy" / "grafana" / "dashboards"
OPERATORS_LABELS = {"namespace", "pod", "service", "endpoint", "container", "instance", "job"}
LARGEST_ANNOTATION_BYTES = 262_144
"""`kubectl apply` keeps what it applied in one annotation; Kubernetes allows no more than this."""


@pytest.fixture(scope="module")
def scraped() -> dict:
    """The configuration of a Prometheus without an operator."""
    return yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))


@pytest.fixture
def monitor() -> dict:
    return named(rendered("production"), "ServiceMonitor", "dpace-serve")


@pytest.fixture
def scaled() -> dict:
    return named(rendered("production"), "ScaledObject", "dpace-serve")


def test_the_committed_rules_are_what_the_script_writes(tmp_path):
    subprocess.run([sys.executable, PROMETHEUS / "prometheus_rule.py", tmp_path], check=True)
    committed = ROOT / "deploy" / "k8s" / "components" / "monitoring" / "prometheus-rule.yaml"
    assert (tmp_path / "prometheus-rule.yaml").read_bytes() == committed.read_bytes()


def test_the_operator_gets_the_very_rules_of_prometheus():
    rule = named(rendered("production"), "PrometheusRule", "dpace-serve")
    assert rule["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(rule["spec"]) == {"groups"}
    files = [PROMETHEUS / "rules" / f"{name}.yml" for name in ("recording", "break_even", "alerts")]
    assert {file.name for file in files} == {
        file.name for file in (PROMETHEUS / "rules").glob("*.yml")
    }
    expected = [
        group
        for file in files
        for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
    ]
    assert rule["spec"]["groups"] == expected


def test_what_is_scraped_is_what_prometheus_would_scrape(monitor, scraped):
    (endpoint,) = monitor["spec"]["endpoints"]
    (job,) = scraped["scrape_configs"]
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert endpoint["interval"] == scraped["global"]["scrape_interval"]
    assert endpoint["path"] == "/metrics"
    # The operator writes in camel case what Prometheus writes with underscores.
    relabelled = [
        {re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", key): rule[key] for key in rule}
        for rule in endpoint["metricRelabelings"]
    ]
    assert relabelled == job["metric_relabel_configs"]


def test_the_key_comes_from_the_secret_that_the_server_reads(monitor):
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["authorization"] == {
        "type": "Bearer",
        "credentials": {"name": "dpace-keys", "key": "metrics_key"},
    }


def test_the_monitor_finds_the_observation_port_and_the_labels_of_the_rules(monitor):
    wanted = monitor["spec"]["selector"]["matchLabels"]
    (service,) = (
        one
        for one in of_kind(rendered("production"), "Service")
        if wanted.items() <= one["metadata"]["labels"].items()
    )
    assert service["metadata"]["name"] == "dpace-serve-observation"
    assert monitor["spec"]["endpoints"][0]["port"] in {p["name"] for p in service["spec"]["ports"]}
    # Rules and boards look at jobs named dpace..., and keep models apart.
    job = service["metadata"]["labels"][monitor["spec"]["jobLabel"]]
    assert job.startswith("dpace")
    assert monitor["spec"]["targetLabels"] == ["model"]
    assert service["metadata"]["labels"]["model"]


def test_no_label_of_ours_is_one_that_the_operator_sets():
    assert {label for spec in names.METRICS for label in spec.labels} & OPERATORS_LABELS == set()


def test_the_boards_are_the_files_of_grafana():
    boards = named(rendered("production"), "ConfigMap", "dpace-dashboards")
    files = {file.name: file.read_text(encoding="utf-8") for file in DASHBOARDS.iterdir()}
    assert boards["data"] == files
    assert boards["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_everything_can_be_applied():
    for manifest in rendered("production"):
        assert len(json.dumps(manifest)) < 0.9 * LARGEST_ANNOTATION_BYTES, manifest["metadata"]


def test_scaling_asks_for_requests_that_wait_and_never_for_acceptance(scaled, monitor):
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "prometheus"
    text = trigger["metadata"]["query"]
    query = promql.parse(text)
    assert isinstance(query, promql.AggregateExpr)
    assert query.expr.name == "vllm:num_requests_waiting"
    matchers = {one.name: one.value for one in query.expr.matchers.matchers}
    service = named(rendered("production"), "Service", "dpace-serve-observation")
    assert matchers == {
        "job": service["metadata"]["labels"][monitor["spec"]["jobLabel"]],
        "namespace": service["metadata"]["namespace"],
    }
    assert "dpace_" not in text
    # Else the colon trap would look like an empty queue.
    assert trigger["metadata"]["ignoreNullValues"] == "false"


def test_fields_of_the_scaled_object_are_those_of_keda(scaled):
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    assert set(scaled["spec"]) == {
        *("scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval"),
        *("fallback", "advanced", "triggers"),
    }
    assert set(scaled["spec"]["fallback"]) == {"failureThreshold", "replicas", "behavior"}
    # All values of a trigger are text; KEDA refuses a number.
    assert all(
        isinstance(value, str) for value in scaled["spec"]["triggers"][0]["metadata"].values()
    )
    assert quantity(scaled["spec"]["triggers"][0]["metadata"]["threshold"]) > 0
    assert 1 <= scaled["spec"]["minReplicaCount"] <= scaled["spec"]["maxReplicaCount"]


def test_the_behaviour_of_the_scaled_object_is_valid_for_kubernetes(scaled):
    # KEDA hands it to a HorizontalPodAutoscaler as it is, and of that there is a schema.
    validate = pytest.importorskip("kubernetes_validate").validate
    behaviour = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "made-by-keda"},
        "spec": {
            "scaleTargetRef": scaled["spec"]["scaleTargetRef"],
            "maxReplicas": scaled["spec"]["maxReplicaCount"],
            "behavior": behaviour,
        },
    }
    assert validate(autoscaler, "1.37", strict=True) == "1.37"


def test_fields_of_the_group_are_those_of_a_leader_worker_set():
    group = named(rendered("multi-node"), "LeaderWorkerSet", "dpace-serve")
    assert group["apiVersion"] == "leaderworkerset.x-k8s.io/v1"
    assert set(group["spec"]) == {"replicas", "rolloutStrategy", "leaderWorkerTemplate"}
    assert set(group["spec"]["rolloutStrategy"]) == {"type", "rollingUpdateConfiguration"}
    template = group["spec"]["leaderWorkerTemplate"]
    assert set(template) == {"size", "restartPolicy", "leaderTemplate", "workerTemplate"}
    assert template["restartPolicy"] == "RecreateGroupOnPodRestart"


def test_both_pods_of_a_group_are_valid():
    # As Deployments, of which there is a schema.
    validate = pytest.importorskip("kubernetes_validate").validate
    group = named(rendered("multi-node"), "LeaderWorkerSet", "dpace-serve")
    for role in ("leaderTemplate", "workerTemplate"):
        template = group["spec"]["leaderWorkerTemplate"][role]
        deployment = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "dpace-serve"},
            "spec": {
                "selector": {"matchLabels": template["metadata"]["labels"]},
                "template": template,
            },
        }
        assert validate(deployment, "1.30", strict=True) == "1.30"


def test_clients_and_prometheus_reach_leaders_only():
    manifests = rendered("multi-node")
    for service in of_kind(manifests, "Service"):
        assert service["spec"]["selector"]["dpace-role"] == "leader"
    assert "kind: Deployment" not in rendered_text("multi-node")
