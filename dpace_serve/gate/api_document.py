"""The OpenAPI document of a server: what is open on it, and nothing else."""

import asyncio
import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response

from dpace_serve import __version__
from dpace_serve.dashboard.files import read_files
from dpace_serve.dashboard.routes import documented_paths
from dpace_serve.gate.documented_answers import ERROR_NAME, ERROR_SCHEMA, RouteKind, answers
from dpace_serve.gate.documented_keys import SCHEMES, opening_keys
from dpace_serve.gate.request_schema import bounded
from dpace_serve.gate.route_table import HEALTH_PATH, RouteTable
from dpace_serve.gate.stack import ServerKeys
from dpace_serve.gate_config import LimitsConfig
from dpace_serve.serve_config import ServeConfig
from dpace_serve.web.key_guard import PREFIX

PATH = f"{PREFIX}/openapi.json"

_READING = ("get", "head")
_BODILESS = ("GET", "HEAD", "OPTIONS")
_UNDESCRIBED = {"summary": "A route of the engine"}
_COMPONENTS = "#/components/schemas/"


def attach(ours: FastAPI, engine: FastAPI, config: ServeConfig, keys: ServerKeys) -> None:
    """Add the route of the document, which is read with the keys of everything below /dpace.

    Args:
        ours: The application with our routes.
        engine: The application with the engine's, often the same.
        config: What `dpace serve` was given.
        keys: Who may call what.
    """
    written: list[bytes] = []

    @ours.get(PATH, tags=["dpace"])
    async def openapi_document() -> Response:
        """This document: what is open on this server, to whom, and what it can answer."""
        if not written:  # an engine's many schemas take a while, and its routes come after ours
            document = await asyncio.to_thread(build, ours, engine, config, keys)
            written.append(json.dumps(document).encode())
        return Response(written[0], media_type="application/json")


def build(ours: FastAPI, engine: FastAPI, config: ServeConfig, keys: ServerKeys) -> dict[str, Any]:
    """The document, in OpenAPI 3.1; arguments as of `attach`."""
    documents = {id(one): deepcopy(one.openapi()) for one in (engine, ours)}
    schemas: dict[str, Any] = {}
    for document in documents.values():
        schemas |= document.get("components", {}).get("schemas", {})
    own = documents[id(ours)]["paths"]
    paths = _engine_paths(documents[id(engine)]["paths"], config, keys)
    paths |= _own_paths({path: own[path] for path in own if path.startswith(f"{PREFIX}/")}, keys)
    paths |= documented_paths(read_files(), PREFIX)
    _bound_requests(schemas, paths, config.limits)
    schemas[ERROR_NAME] = ERROR_SCHEMA
    if config.observation is not None:
        _say_where(paths, config)
    return {
        "openapi": "3.1.0",
        "info": {"title": "dpace-serve", "version": __version__},
        "paths": paths,
        "components": {"schemas": _used(schemas, paths), "securitySchemes": SCHEMES},
    }


def _engine_paths(
    known: Mapping[str, Any], config: ServeConfig, keys: ServerKeys
) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for path, methods in RouteTable(config.open_routes).items():
        for method, access in methods.items():
            # Some routes of an engine are not in its own document.
            operation = known.get(path, {}).get(method.lower(), _UNDESCRIBED)
            kind: RouteKind = "read" if method in _BODILESS else "generate"
            paths.setdefault(path, {})[method.lower()] = _operation(
                operation, f"{method} {path}", kind, opening_keys(access, keys)
            )
    return paths


def _own_paths(known: Mapping[str, Any], keys: ServerKeys) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for path, methods in known.items():
        for method, operation in methods.items():
            reads = method in _READING
            if not reads and keys.admin is None:  # then nobody can change a drafter
                continue
            security = opening_keys("reader" if reads else "admin", keys)
            paths.setdefault(path, {})[method] = _operation(
                operation, f"{method.upper()} {path}", "read" if reads else "change", security
            )
    return paths


def _operation(
    known: Mapping[str, Any], route: str, kind: RouteKind, security: list[dict[str, list[str]]]
) -> dict[str, Any]:
    found = answers(route, kind, known.get("responses", {}), needs_key=bool(security))
    return {**known, "responses": found, "security": security}


def _bound_requests(
    schemas: dict[str, Any], paths: Mapping[str, Any], limits: LimitsConfig
) -> None:
    for path, methods in paths.items():
        body = methods.get("post", {}).get("requestBody", {}).get("content", {})
        name = body.get("application/json", {}).get("schema", {}).get("$ref", "")
        name = name.removeprefix(_COMPONENTS)
        if name in schemas and not path.startswith(f"{PREFIX}/"):
            schemas[name] = bounded(schemas[name], limits)


def _say_where(paths: Mapping[str, Any], config: ServeConfig) -> None:
    """The document is read on the listener for observation; other routes are on the main port."""
    scheme = "http" if config.tls is None else "https"
    url = f"{scheme}://{{host}}:{config.port}"
    main = {"url": url, "variables": {"host": {"default": "localhost"}}}
    for path in RouteTable(config.open_routes).main_paths():
        paths[path]["servers"] = [{"url": "/"}, main] if path == HEALTH_PATH else [main]


def _used(schemas: Mapping[str, Any], paths: object) -> dict[str, Any]:
    """The schemas that are referred to, by these paths or by each other."""
    used: dict[str, Any] = {}
    open_values: list[object] = [paths]
    while open_values:
        value = open_values.pop()
        if isinstance(value, list):
            open_values.extend(value)
        elif isinstance(value, dict):
            open_values.extend(value.values())
            reference = value.get("$ref")
            name = reference.removeprefix(_COMPONENTS) if isinstance(reference, str) else ""
            if name in schemas and name not in used:
                used[name] = schemas[name]
                open_values.append(schemas[name])
    return dict(sorted(used.items()))
