"""What the routes of a server can answer, as its OpenAPI document has it."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Literal

RouteKind = Literal["read", "generate", "change"]
"""read: without a body; generate: a body for the engine; change: of the drafters."""

ERROR_NAME = "DpaceError"
ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "integer", "description": "the status of the answer"},
            },
        }
    },
}
"""Every refusal and every failure, in the OpenAI shape."""

_ERRORS: Mapping[RouteKind, tuple[int, ...]] = {
    "read": (421, 503),
    "generate": (400, 404, 408, 413, 415, 421, 422, 429, 500, 503, 504),
    "change": (400, 403, 404, 409, 413, 421, 422, 500, 503, 504),
}
_UNAUTHORIZED = 401
_NOT_FOUND = 404
_MALFORMED = 422

_GENERATED = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices"],
    "properties": {
        "id": {"type": "string"},
        "object": {"type": "string"},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "choices": {"type": "array", "items": {"type": "object"}},
    },
}
_IDENTITY = {
    "type": "object",
    "required": ["name", "revision"],
    "properties": {"name": {"type": "string"}, "revision": {"type": "string"}},
}
_CHANGED = {
    "type": "object",
    "required": ["operation", "drafter", "slot", "seconds", "former_champion"],
    "properties": {
        "operation": {"enum": ["swap", "challenge", "promote", "drop"]},
        "drafter": _IDENTITY,
        "slot": {"type": "integer", "minimum": 0},
        "seconds": {
            "type": "object",
            "required": ["load", "total"],
            "properties": {
                "load": {"type": "number", "minimum": 0},
                "total": {"type": "number", "minimum": 0},
            },
        },
        "former_champion": {"anyOf": [_IDENTITY, {"type": "null"}]},
    },
}
_JSON_ANSWERS: Mapping[str, dict[str, Any]] = {
    "GET /version": {
        "type": "object",
        "required": ["version"],
        "properties": {"version": {"type": "string"}},
    },
    "GET /v1/models": {
        "type": "object",
        "required": ["object", "data"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"type": "object", "required": ["id"]}},
        },
    },
    "POST /v1/chat/completions": _GENERATED,
    "POST /v1/completions": _GENERATED,
}
_METRICS = "GET /metrics"


def answers(
    route: str, kind: RouteKind, known: Mapping[str, Any], *, needs_key: bool
) -> dict[str, Any]:
    """All answers of a route by their status.

    Args:
        route: As `METHOD path`.
        kind: What it does.
        known: Answers that its own application documents; of those the successes are kept.
        needs_key: Whether it can be refused for want of a key.
    """
    found = {status: known[status] for status in known if status < str(HTTPStatus.BAD_REQUEST)}
    if kind == "change":
        found["200"] = _success({"application/json": {"schema": _CHANGED}})
    elif route in _JSON_ANSWERS:
        content: dict[str, Any] = {"application/json": {"schema": _JSON_ANSWERS[route]}}
        if kind == "generate":
            content["text/event-stream"] = {}
        found["200"] = _success(content)
    elif route == _METRICS:
        found["200"] = _success({"text/plain": {}, "application/openmetrics-text": {}})
    elif not found:
        found["200"] = {"description": "Successful Response"}
    statuses = list(_ERRORS[kind])
    if needs_key:
        statuses.append(_UNAUTHORIZED)
    if not known:  # its own application does not describe it, and perhaps does not have it
        statuses.append(_NOT_FOUND)
    if str(_MALFORMED) in known:  # it has parameters
        statuses.append(_MALFORMED)
    return {**found, **_refusals(statuses)}


def _success(content: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": "Successful Response", "content": content}


def _refusals(statuses: Iterable[int]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{ERROR_NAME}"}
    return {
        str(status): {
            "description": HTTPStatus(status).phrase,
            "content": {"application/json": {"schema": schema}},
        }
        for status in sorted(set(statuses))
    }
