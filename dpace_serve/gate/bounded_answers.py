"""BoundedAnswers: every answer ends, by itself, at its deadline, or when the server stops."""

import asyncio
from http import HTTPStatus

from starlette._utils import get_route_path
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from dpace_serve.gate.draining import RETRY_HEADERS, Drain
from dpace_serve.gate.ended_answer import EndableAnswer, Ending
from dpace_serve.web.error_response import error_response
from dpace_serve.web.key_guard import is_ours

METRICS_PATH = "/metrics"

_READING = ("GET", "HEAD", "OPTIONS")
_SERVICE_RESTART = 1012


class BoundedAnswers:
    """Runs answers so that they can be ended, and refuses new ones while the server drains.

    What observes the server (/metrics and everything below /dpace) has no deadline and is read
    until the end; only changes are refused when it nears.
    """

    def __init__(self, app: ASGIApp, drain: Drain, *, deadline_seconds: float) -> None:
        """Wrap an application.

        Args:
            app: What answers.
            drain: Whether the server stops, and where running answers are known.
            deadline_seconds: Longest time of an answer, from the request's headers to its end.
        """
        self._app = app
        self._drain = drain
        self._deadline_seconds = deadline_seconds
        self._too_late = Ending(
            HTTPStatus.GATEWAY_TIMEOUT,
            f"The answer took longer than this server lets one take, {deadline_seconds:g} s. "
            "Ask for fewer tokens.",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 503."""
        if scope["type"] == "websocket" and self._drain.is_draining:
            await send({"type": "websocket.close", "code": _SERVICE_RESTART})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        elif not is_observation(scope):
            await self._answer(scope, receive, send)
        elif self._drain.is_draining and scope["method"] not in _READING:
            await _refuse(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._drain.is_draining:
            await _refuse(scope, receive, send)
            return
        answer = EndableAnswer(self._app, scope, receive, send)
        deadline = asyncio.get_running_loop().call_later(
            self._deadline_seconds, answer.end, self._too_late
        )
        try:
            with self._drain.running(answer):
                await answer.run()
        finally:
            deadline.cancel()


def bound_answers(app: Starlette, *, deadline_seconds: float) -> Drain:
    """Put this outside of an engine's whole application, before it is first called.

    Returns:
        What ends its answers when the server stops.
    """
    drain = Drain()
    inner = app.build_middleware_stack

    def build_middleware_stack() -> ASGIApp:
        return BoundedAnswers(inner(), drain, deadline_seconds=deadline_seconds)

    # Engines add middlewares of their own after us, and what is added last stands outermost.
    vars(app)["build_middleware_stack"] = build_middleware_stack
    return drain


def is_observation(scope: Scope) -> bool:
    """Whether a request asks about the server rather than for an answer of its model."""
    # The very path that the router will match.
    path = get_route_path(scope)
    return is_ours(scope) or path == METRICS_PATH or path.startswith(f"{METRICS_PATH}/")


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    message = "The server stops and takes no new requests. Send it again, to another one."
    headers = dict(RETRY_HEADERS)
    if scope["http_version"] in {"1.0", "1.1"}:  # later ones have no such header
        headers["Connection"] = "close"
    refusal = error_response(HTTPStatus.SERVICE_UNAVAILABLE, message, headers)
    await refusal(scope, receive, send)
