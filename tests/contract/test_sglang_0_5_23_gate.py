"""What the gate before SGLang 0.5.23 relies on, without a model; make test-sglang runs it."""

import importlib
import inspect
import re
import warnings

import pytest

from dpace_serve.errors import ConfigError
from dpace_serve.gate.generation_gate import SCHEDULING_HEADERS
from dpace_serve.gate.request_fields import FIELD_KINDS
from dpace_serve.gate.route_table import OPEN_ROUTES, RouteTable
from dpace_serve.sglang_engine import server, start_pass

pytestmark = [pytest.mark.sglang]


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """SGLang warns of all that a CPU lacks while it is imported, and only then."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("sglang.srt.entrypoints.http_server")


def test_every_field_that_a_request_may_have_is_known_to_the_gate():
    from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest, CompletionRequest

    for model in (ChatCompletionRequest, CompletionRequest):
        names = set()
        for name, field in model.model_fields.items():
            aliases = {field.alias, field.validation_alias} - {None}
            assert all(isinstance(alias, str) for alias in aliases)
            names |= {name} | aliases
        assert names - set(FIELD_KINDS) == set()
        assert model.model_config.get("extra") != "allow"
        # A field that only a validator reads is in no list of fields.
        read = re.findall(r"values(?:\.get\(|\.pop\(|\[)\"(\w+)\"", inspect.getsource(model))
        assert set(read) - set(FIELD_KINDS) == set()


def test_so_is_every_field_of_sglangs_own_route_where_it_is_opened():
    from dataclasses import fields

    from sglang.srt.managers.io_struct import GenerateReqInput
    from sglang.srt.sampling.sampling_params import SamplingParams

    names = {field.name for field in fields(GenerateReqInput)}
    assert names - set(FIELD_KINDS) == {"sampling_params"}
    assert set(SamplingParams.__struct_fields__) - set(FIELD_KINDS) == set()


def test_what_only_a_validator_reads_is_found_by_the_search_above():
    from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest

    assert 'values.get("reasoning")' in inspect.getsource(ChatCompletionRequest)
    assert "reasoning" not in ChatCompletionRequest.model_fields


def test_the_gate_opens_its_own_routes_of_sglang_and_no_other():
    table = RouteTable([])
    reached = {
        f"{method} {path}"
        for path, methods in engine_routes()
        for method in methods
        if method in table.methods(path)
    }
    # It has no /version, and /metrics is ours.
    assert reached == set(OPEN_ROUTES) - {"GET /version", "GET /metrics"}
    assert len(list(engine_routes())) > 80


def engine_routes():
    from sglang.srt.entrypoints.http_server import app

    routes = list(app.routes)
    while routes:
        route = routes.pop()
        if hasattr(route, "original_router"):
            routes.extend(route.original_router.routes)
        elif getattr(route, "methods", None):
            yield route.path, route.methods


def test_sglang_still_searches_for_a_clients_pattern_between_the_steps():
    # Once it does not, stop_regex may be opened.
    from sglang.srt.managers.schedule_batch import Req

    source = inspect.getsource(Req._check_str_based_finish)
    assert "re.search(stop_regex_str, tail_str)" in source


def test_sglang_still_ends_all_whose_ids_begin_alike():
    # Once it does not, rid may be opened.
    from sglang.srt.managers.scheduler import Scheduler

    assert "req.rid.startswith(recv_req.rid)" in inspect.getsource(Scheduler.abort_request)


def test_the_checker_of_weights_still_writes_them():
    from sglang.srt.utils.weight_checker import WeightChecker

    assert "param.copy_(_random_like(param))" in inspect.getsource(WeightChecker._reset_tensors)


def test_every_header_that_changes_a_request_is_dropped():
    from sglang.srt.entrypoints import request_headers
    from sglang.srt.entrypoints.openai.serving_base import OpenAIServingBase

    source = inspect.getsource(OpenAIServingBase)
    read = set(re.findall(r"headers\.get\(\"([\w-]+)\"\)", source))
    assert read == {"x-smg-routing-key", "x-data-parallel-rank"}
    for name in read | set(request_headers._HEADER_OVERRIDES):
        assert name.encode().startswith(SCHEDULING_HEADERS)


def test_the_start_asks_by_the_routes_that_it_may():
    from sglang.srt.entrypoints import http_server

    warmup = inspect.getsource(http_server._execute_server_warmup)
    freeze = inspect.getsource(http_server._freeze_gc_after_server_warmup)
    assert re.findall(r"url(?:\(\))? \+ (\S+?),?\s", warmup) == ['"/model_info"', "request_name"]
    names = set(re.findall(r"request_name = \"(\S+)\"", warmup))
    of_other_models = {"/encode", "/v1/systemone"}
    assert {f"POST {name}" for name in names - of_other_models} < start_pass.ROUTES
    assert 'server_args.url() + "/freeze_gc"' in freeze
    asked = {"GET /model_info", "POST /generate", "POST /v1/chat/completions", "POST /freeze_gc"}
    assert asked == start_pass.ROUTES
    for source in (warmup, freeze):
        assert 'f"Bearer {' in source
        assert "get_serving().api_key" in source


def test_the_start_ends_with_the_callback_and_begins_with_the_lifespan():
    from sglang.srt.entrypoints import http_server

    source = inspect.getsource(http_server._wait_and_warmup)
    assert source.index("_freeze_gc_after_server_warmup(server_args)") < source.index(
        "launch_callback()"
    )
    assert "target=_wait_and_warmup" in inspect.getsource(http_server.lifespan)


def test_a_lent_key_is_sglangs_for_as_long_as_it_is_lent_and_in_no_document():
    from sglang.srt.runtime_context import _ConfigBag, get_context

    bag = _ConfigBag("serving")
    bag._set("api_key", None)
    with bag.override(api_key="lent"):
        assert bag.api_key == "lent"
        assert get_context().overrides_log() == []
    assert bag.api_key is None


def test_sglang_still_logs_the_key_it_is_given_and_answers_every_web_page():
    # Once it does neither, both need not be kept from it.
    from fastapi.middleware.cors import CORSMiddleware
    from sglang.srt.entrypoints import engine
    from sglang.srt.entrypoints.http_server import app

    assert "server_args={_server_args_for_logging(" in inspect.getsource(engine)
    (cors,) = [one for one in app.user_middleware if one.cls is CORSMiddleware]
    assert cors.kwargs["allow_origins"] == ["*"]


def test_its_server_asks_for_no_client_certificates():
    # Once it does, tls.client_ca_file may be had.
    from sglang.srt.entrypoints import http_server

    assert "ssl_cert_reqs" not in inspect.getsource(http_server)


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ([], None),
        (["--api-key", "K"], "K"),
        (["--api-key=K", "--device=cpu"], "K"),
        (["--api-k", "K"], "K"),
    ],
)
def test_the_users_key_is_found_among_sglangs_arguments(given, key):
    ours = ["--model-path=m", "--host=127.0.0.1"]
    assert server.require_compatible(ours, given) == key
    assert server.require_compatible(ours, server.without_api_key(given)) is None


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (["--admin-api-key", "secret-word"], "admin_api_key"),
        (["--ssl-keyfile-password=secret-word"], "ssl_keyfile_password"),
        (["--ssl-certfile", "c", "--ssl-keyfile", "k"], "ssl_certfile"),
        (["--ssl-ca-certs", "c"], "ssl_ca_certs"),
        (["--enable-ssl-refresh"], "enable_ssl_refresh"),
        (["--enable-http2"], "enable_http2"),
        (["--host", "10.0.0.1"], "host"),
        (["--tokenizer-worker-num", "2"], "tokenizer_worker_num"),
    ],
)
def test_what_would_go_round_the_gate_is_refused_and_no_secret_repeated(given, name):
    with pytest.raises(ConfigError, match=f"must leave {name} to") as refusal:
        server.require_compatible(["--model-path=m", "--host=127.0.0.1"], given)
    assert "secret-word" not in str(refusal.value)
