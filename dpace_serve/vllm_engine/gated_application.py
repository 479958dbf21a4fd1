"""Puts what bounds answers outside of vLLM's whole HTTP application."""

from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from dpace_serve.gate.bounded_answers import BoundedAnswers
from dpace_serve.gate.draining import Drain

if TYPE_CHECKING:
    from fastapi import FastAPI

    from dpace_serve.serve_config import ServeConfig


def bound_answers(app: "FastAPI", config: "ServeConfig") -> Drain:
    """Let answers of an application end at their deadline and when the server stops.

    Returns:
        What ends them when it stops.
    """
    drain = Drain()
    inner = app.build_middleware_stack

    def build_middleware_stack() -> ASGIApp:
        return BoundedAnswers(
            inner(), drain, deadline_seconds=config.limits.request_deadline_seconds
        )

    # vLLM adds its own middlewares after us, and what is added last stands outermost.
    vars(app)["build_middleware_stack"] = build_middleware_stack
    return drain
