"""Schemas of requests as this server takes them: within its limits, without what is shut."""

from collections.abc import Callable, Mapping
from typing import Any

from dpace_serve.gate.request_check import ID_PATTERN, is_closed
from dpace_serve.gate.request_fields import FIELD_KINDS, FieldKind
from dpace_serve.gate_config import LimitsConfig

Bounds = dict[str, dict[str, Any]]
"""Keywords to add to a schema, by its type."""

_BOUNDS: Mapping[FieldKind, Callable[[LimitsConfig], Bounds]] = {
    "prompt": lambda limits: {"string": {"maxLength": limits.max_prompt_characters}},
    "choices": lambda limits: {"integer": {"maximum": limits.max_choices}},
    "length": lambda limits: {"integer": {"maximum": limits.max_output_tokens}},
    "logprobs": lambda limits: {"integer": {"minimum": 0, "maximum": limits.max_logprobs}},
    "stops": lambda limits: {
        "string": {"maxLength": limits.max_stop_characters},
        "array": {"maxItems": limits.max_stops},
    },
    "tokens": lambda limits: {
        "array": {"maxItems": limits.max_listed_tokens},
        "object": {"maxProperties": limits.max_listed_tokens},
    },
    "id": lambda _: {"string": {"pattern": f"^{ID_PATTERN.pattern}$"}},
}


def bounded(schema: Mapping[str, Any], limits: LimitsConfig) -> dict[str, Any]:
    """The schema of a request with the bounds of this server.

    Args:
        schema: The engine's, whose properties are fields of a request.
        limits: Most that a request may ask for.
    """
    properties = {}
    for name, field in schema.get("properties", {}).items():
        kind = FIELD_KINDS.get(name, "harmless")
        if is_closed(kind, limits):
            continue
        bounds = _BOUNDS[kind](limits) if kind in _BOUNDS else {}
        properties[name] = _within(field, bounds)
    return {**schema, "properties": properties}


def _within(schema: Mapping[str, Any], bounds: Bounds) -> dict[str, Any]:
    narrowed = {**schema, **bounds.get(str(schema.get("type")), {})}
    if "anyOf" in narrowed:
        narrowed["anyOf"] = [_within(one, bounds) for one in narrowed["anyOf"]]
    if isinstance(narrowed.get("items"), dict):
        narrowed["items"] = _within(narrowed["items"], bounds)
    return narrowed
