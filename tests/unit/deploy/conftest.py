"""Which labels the result of a PromQL expression has, from what the metrics are declared with.

A name or label that nothing has is an error, and so is a match of two sides that can never match:
Prometheus itself answers both with an empty result.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import promql_parser as promql
import pytest
import yaml

from dpace_serve.metrics import names

DEPLOY = Path(__file__).parents[3] / "deploy"
TARGET_LABELS = frozenset({"job", "model", "instance"})
"""Put on every series by deploy/prometheus/prometheus.yml and by Prometheus itself."""

VLLM_LABELS = frozenset({"model_name", "engine"})
VLLM_METRICS = {
    "vllm:num_requests_running": VLLM_LABELS,
    "vllm:num_requests_waiting": VLLM_LABELS,
    "vllm:kv_cache_usage_perc": VLLM_LABELS,
    "vllm:generation_tokens_total": VLLM_LABELS,
    "vllm:prompt_tokens_total": VLLM_LABELS,
    "vllm:num_preemptions_total": VLLM_LABELS,
    "vllm:request_success_total": VLLM_LABELS | {"finished_reason"},
    "vllm:time_to_first_token_seconds_bucket": VLLM_LABELS | {"le"},
    "vllm:request_time_per_output_token_seconds_bucket": VLLM_LABELS | {"le"},
}
"""Every upstream metric that rules and dashboards use; the live test sees them on a real server."""

Labels = frozenset[str]
LabelsOf = Callable[[str], Labels]


@pytest.fixture(scope="session")
def rules() -> dict[str, list[dict]]:
    """All rules by file, in the order in which they are evaluated."""
    order = ("recording", "break_even", "alerts")
    found = {path.stem for path in (DEPLOY / "prometheus" / "rules").iterdir()}
    assert found == set(order)
    return {name: _rules_of(name) for name in order}


@pytest.fixture(scope="session")
def labels_of(rules) -> LabelsOf:
    """Labels of the result of an expression over everything that can be scraped or is recorded."""
    known = _scraped()
    for rule in (*rules["recording"], *rules["break_even"]):
        labels = _labels(promql.parse(rule["expr"]), known) | frozenset(rule.get("labels", {}))
        assert known.setdefault(rule["record"], labels) == labels
    return lambda expression: _labels(promql.parse(expression), known)


def _rules_of(name: str) -> list[dict]:
    file = DEPLOY / "prometheus" / "rules" / f"{name}.yml"
    groups = yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _scraped() -> dict[str, Labels]:
    known = {
        "up": TARGET_LABELS,
        "ALERTS": TARGET_LABELS | {"alertname", "alertstate", "severity"},
    }
    for name, labels in VLLM_METRICS.items():
        known[name] = TARGET_LABELS | labels
    for spec in names.METRICS:
        labels = TARGET_LABELS | frozenset(spec.labels)
        if spec.type == "histogram":
            known[f"{spec.name}_bucket"] = labels | {"le"}
            known |= {f"{spec.name}_{part}": labels for part in ("sum", "count")}
        else:
            known[spec.name] = labels
    return known


def _labels(node, known: Mapping[str, Labels]) -> Labels:
    match node:
        case promql.NumberLiteral() | promql.StringLiteral():
            labels = frozenset()
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            labels = _labels(node.expr, known)
        case promql.MatrixSelector():
            labels = _of_selector(node.vector_selector, known)
        case promql.VectorSelector():
            labels = _of_selector(node, known)
        case promql.Call():
            labels = _of_call(node, known)
        case promql.AggregateExpr():
            labels = _of_aggregate(node, known)
        case promql.BinaryExpr():
            labels = _of_binary(node, known)
    return labels


def _of_selector(selector, known: Mapping[str, Labels]) -> Labels:
    matchers = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
    name = selector.name or matchers.pop("__name__")
    if name not in known:
        raise ValueError(f"nothing is called {name}.")
    _require(set(matchers) <= known[name], f"{name} has no label among {sorted(matchers)}.")
    return known[name]


def _of_call(call, known: Mapping[str, Labels]) -> Labels:
    labels = frozenset().union(*(_labels(argument, known) for argument in call.args))
    if call.func.name == "label_replace":
        _, target, _, source, _ = call.args
        _require({source.val} <= labels, f"label_replace reads {source.val}, which is not there.")
        return labels | {target.val}
    if call.func.name == "histogram_quantile":
        _require({"le"} <= labels, "histogram_quantile needs the label le.")
        return labels - {"le"}
    return labels


def _of_aggregate(aggregate, known: Mapping[str, Labels]) -> Labels:
    labels = _labels(aggregate.expr, known)
    if aggregate.modifier is None:
        return frozenset()
    named = frozenset(aggregate.modifier.labels)
    _require(named <= labels, f"an aggregation names {sorted(named - labels)}, not there.")
    return named if aggregate.modifier.type == promql.AggModifierType.By else labels - named


def _of_binary(binary, known: Mapping[str, Labels]) -> Labels:
    left, right = _labels(binary.lhs, known), _labels(binary.rhs, known)
    if not _is_vector(binary.lhs) or not _is_vector(binary.rhs):
        return left | right
    matching = binary.modifier and binary.modifier.matching
    if matching is None:
        on = left | right
    elif matching.type == promql.LabelModifierType.Include:
        on = frozenset(matching.labels)
    else:
        _require(set(matching.labels) <= left | right, f"ignoring {matching.labels}, not there.")
        on = (left | right) - set(matching.labels)
    if str(binary.op) == "or":
        return left | right
    _require(on <= left & right, f"{sorted(on - (left & right))} is on one side of {binary.op}.")
    if str(binary.op) in {"and", "unless"}:
        return left
    if binary.modifier and binary.modifier.card == promql.VectorMatchCardinality.ManyToOne:
        return left | frozenset(binary.modifier.group_labels)
    if binary.modifier and binary.modifier.card == promql.VectorMatchCardinality.OneToMany:
        return right | frozenset(binary.modifier.group_labels)
    return on


def _is_vector(node) -> bool:
    if isinstance(node, promql.ParenExpr | promql.UnaryExpr):
        return _is_vector(node.expr)
    if isinstance(node, promql.BinaryExpr):
        return _is_vector(node.lhs) or _is_vector(node.rhs)
    return not isinstance(node, promql.NumberLiteral | promql.StringLiteral)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
