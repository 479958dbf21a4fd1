"""Puts what is ours before SGLang's HTTP application: our routes, all metrics, and the gate."""

from collections.abc import Callable, Iterable

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from dpace_serve.gate import api_document, stack
from dpace_serve.gate.draining import Drain
from dpace_serve.metrics.refusals import RefusalCount
from dpace_serve.serve_config import ServeConfig
from dpace_serve.sglang_engine.front import Front
from dpace_serve.sglang_engine.metrics_page import metrics_page
from dpace_serve.sglang_engine.recording import Recording
from dpace_serve.sglang_engine.start_pass import StartPass, StartPassCheck
from dpace_serve.web import routes
from dpace_serve.web.workload_header import WorkloadHeader


def put_front(
    app: FastAPI, recording: Recording, api_keys: Iterable[str], admin_key: str | None
) -> None:
    """Let our own application answer before SGLang's, which keeps its own check of keys.

    Args:
        app: SGLang's; it must not have answered yet.
        recording: What our routes show.
        api_keys: Keys that open what reads.
        admin_key: Key that opens what changes the drafter; none keeps it shut.
    """
    ours = _our_routes(recording, api_keys, admin_key)
    _put_outside(app, _fronted(ours, recording.registry))


def put_gate(
    app: FastAPI,
    recording: Recording | None,
    config: ServeConfig,
    keys: stack.ServerKeys,
    start_pass: StartPass,
    drain: Drain,
) -> None:
    """The same with the gate around it all, and no door beside it.

    Args:
        app: SGLang's; it must not have answered yet, and has no keys of its own.
        recording: What our routes show; none where nothing is drafted.
        config: What `dpace serve` was given.
        keys: Who may call it.
        start_pass: How SGLang itself comes through.
        drain: What knows the answers that run.
    """
    registry = CollectorRegistry() if recording is None else recording.registry
    count = RefusalCount(registry)
    ours = _our_routes(recording, keys.api, keys.admin)
    api_document.attach(ours, app, config, keys)
    front = _fronted(ours, registry)

    def gated(engine: ASGIApp) -> ASGIApp:
        behind = front(engine)
        gate = stack.around(behind, app, config, keys, count, drain)
        return StartPassCheck(gate, behind, start_pass)

    _put_outside(app, gated)
    opened_to_pages: object = CORSMiddleware  # which would let every web page read the answers
    app.user_middleware[:] = [one for one in app.user_middleware if one.cls is not opened_to_pages]


def _our_routes(
    recording: Recording | None, api_keys: Iterable[str], admin_key: str | None
) -> FastAPI:
    ours = FastAPI(openapi_url=None)
    routes.attach(ours, api_keys, admin_key)
    ours.state.dpace = recording and recording.book
    ours.state.dpace_operations = recording and recording.operations
    ours.state.dpace_comparisons = recording and recording.comparisons
    return ours


def _fronted(ours: FastAPI, registry: CollectorRegistry) -> Callable[[ASGIApp], ASGIApp]:
    page = metrics_page(registry)
    return lambda engine: Front(WorkloadHeader(engine), ours, page)


def _put_outside(app: FastAPI, around: Callable[[ASGIApp], ASGIApp]) -> None:
    inner = app.build_middleware_stack

    def build_middleware_stack() -> ASGIApp:
        return around(inner())

    # SGLang adds middleware after us, and what is added last stands outermost.
    vars(app)["build_middleware_stack"] = build_middleware_stack
