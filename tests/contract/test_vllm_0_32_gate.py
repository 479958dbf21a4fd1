"""What the gate relies on in vLLM 0.32's HTTP application, and what it keeps shut there."""

import argparse
import inspect

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from dpace_serve.gate import api_document
from dpace_serve.gate.request_fields import FIELD_KINDS
from dpace_serve.gate.route_table import CHANGING_THE_TARGET, OPEN_ROUTES, RouteTable
from dpace_serve.gate.stack import ServerKeys
from dpace_serve.gate_config import LimitsConfig
from dpace_serve.serve_config import ServeConfig
from dpace_serve.web import routes

pytestmark = [pytest.mark.engine, pytest.mark.slow]

FLAT_ALIASES = {"alias", "validation_alias", "serialization_alias"}


@pytest.fixture(scope="module")
def application():
    """vLLM's application as its server builds it in development mode, where most routes are."""
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_SERVER_DEV_MODE", "1")
        args = make_arg_parser(FlexibleArgumentParser()).parse_args([])
        assert isinstance(args, argparse.Namespace)
        return build_app(args, ("generate",))


def test_vllm_0_32_requests_have_no_field_that_the_gate_does_not_know():
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    for request in (ChatCompletionRequest, CompletionRequest):
        assert set(request.model_fields) <= set(FIELD_KINDS)
        for field in request.model_fields.values():  # no other name that would pass by the gate
            assert {getattr(field, name) for name in FLAT_ALIASES} == {None}


def test_vllm_0_32_has_the_routes_that_are_open(application):
    has = {
        f"{method} {route.path}"
        for route in application.routes
        for method in getattr(route, "methods", None) or ["GET"]
    }
    assert set(OPEN_ROUTES) <= has


def test_vllm_0_32_has_many_routes_that_are_not_open_and_the_gate_shuts_them(application):
    table = RouteTable([])
    shut = {route.path for route in application.routes if not table.methods(route.path)}
    assert {"/invocations", "/tokenize", "/detokenize", "/load", "/ping", "/docs"} <= shut
    assert {"/collective_rpc", "/sleep", "/pause", "/update_weights"} <= shut
    assert {route.path for route in application.routes} - shut == {
        route.partition(" ")[2] for route in OPEN_ROUTES
    }


def test_vllm_0_32_weight_routes_can_never_be_opened(application):
    writing = {
        route.path
        for route in application.routes
        if isinstance(route, APIRoute) and ("weight" in route.path or "rpc" in route.path)
    }
    reading = {path for path in writing if "GET" in methods_of(application, path)}
    assert writing
    assert writing - reading <= CHANGING_THE_TARGET


def test_vllm_0_32_describes_every_open_route_and_our_document_has_no_other(application):
    ours = FastAPI()
    routes.attach(ours, (), None)
    config = ServeConfig(target="t", open_routes=("POST /tokenize",))
    document = api_document.build(ours, application, config, ServerKeys(("key",), None, None))
    found = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method in methods
        if not path.startswith("/dpace")
    }
    assert found == {*OPEN_ROUTES, "POST /tokenize"}
    described = application.openapi()["paths"]
    assert {route.split()[1] for route in found} <= set(described)
    schemas = document["components"]["schemas"]
    for name in ("CompletionRequest", "ChatCompletionRequest"):
        fields = set(schemas[name]["properties"])
        assert {"n", "temperature", "max_tokens"} <= fields
        assert not fields & {"chat_template", "priority", "kv_transfer_params", "prompt_embeds"}
        field = schemas[name]["properties"]["n"]
        [whole] = [one for one in field.get("anyOf", [field]) if one["type"] == "integer"]
        assert whole["maximum"] == LimitsConfig().max_choices
    # What is bounded is our own copy.
    assert (
        "chat_template"
        in application.openapi()["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    )


def methods_of(application, path):
    return {
        method
        for route in application.routes
        if route.path == path
        for method in getattr(route, "methods", None) or ()
    }


def test_vllm_0_32_builds_its_middleware_after_its_plugins_and_by_a_method_of_the_application():
    from model_hosting_container_standards.common.fastapi.middleware import core
    from vllm.entrypoints.launchers.app import build_app

    # Ours replaces the method while plugins are attached; the stack is built by it, once, later.
    source = inspect.getsource(build_app)
    assert source.index("attach_endpoint_plugins(") < source.index("sagemaker_standards_bootstrap(")
    assert "app.middleware_stack = app.build_middleware_stack()" in inspect.getsource(core)


def test_vllm_0_32_sets_no_cors_unless_it_is_told_to():
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    assert args.allowed_origins == []


def test_vllm_0_32_reads_no_header_of_a_client_that_the_gate_has_not_looked_at():
    # Those that choose an engine or a priority are dropped, ids are checked, tracing is harmless.
    from vllm.entrypoints.generate.base import serving as generate
    from vllm.entrypoints.serve.engine import serving as base

    found = set()
    for module in (generate, base):
        source = inspect.getsource(module)
        found |= {part.split(")")[0].strip('" ') for part in source.split("headers.get(")[1:]}
    assert found == {"X-data-parallel-rank", "SESSION_ID_HEADER", "PRIORITY_HEADER", "X-Request-Id"}
    assert generate.PRIORITY_HEADER == "X-Vllm-Priority"
    assert generate.SESSION_ID_HEADER == "X-Session-ID"


def test_vllm_0_32_takes_the_tls_arguments_by_uvicorns_names():
    from vllm.entrypoints.launchers.api_server import entry

    source = inspect.getsource(entry.build_and_serve)
    for name in ("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_cert_reqs"):
        assert f"{name}=args.{name}" in source
