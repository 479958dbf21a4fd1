"""BoundedAnswers: every answer ends, by itself, at its deadline, or when the server stops."""

import asyncio
from http import HTTPStatus

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Receive, Scope, Send

from dpace_serve.gate.draining import RETRY_HEADERS, Drain
from dpace_serve.gate.ended_answer import EndableAnswer, Ending
from dpace_serve.gate.refusal import CountRefusal
from dpace_serve.gate.route_table import HEALTH_PATH, is_observing
from dpace_serve.web.error_response import error_response

_READING = ("GET", "HEAD", "OPTIONS")
_SERVICE_RESTART = 1012


class BoundedAnswers:
    """Runs answers so that they can be ended, and refuses new ones while the server drains.

    What observes the server (/metrics and everything below /dpace) has no deadline and is read
    until the end; only changes are refused when it nears.
    """

    def __init__(
        self, app: ASGIApp, drain: Drain, *, deadline_seconds: float, count: CountRefusal
    ) -> None:
        """Wrap an application.

        Args:
            app: What answers.
            drain: Whether the server stops, and where running answers are known.
            deadline_seconds: Longest time of an answer, from the request's headers to its end.
            count: Told of each request that is refused, and of each answer that is ended.
        """
        self._app = app
        self._drain = drain
        self._deadline_seconds = deadline_seconds
        self._count = count
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
        elif not is_observing(scope):
            await self._answer(scope, receive, send)
        elif self._drain.is_draining and scope["method"] not in _READING:
            await self._refuse(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._drain.is_draining:
            await self._refuse(scope, receive, send)
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
            if answer.ended_by is not None:
                self._count("deadline" if answer.ended_by is self._too_late else "draining")

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        if get_route_path(scope) != HEALTH_PATH:  # a probe asks for nothing
            self._count("draining")
        message = "The server stops and takes no new requests. Send it again, to another one."
        headers = dict(RETRY_HEADERS)
        if scope["http_version"] in {"1.0", "1.1"}:  # later ones have no such header
            headers["Connection"] = "close"
        refusal = error_response(HTTPStatus.SERVICE_UNAVAILABLE, message, headers)
        await refusal(scope, receive, send)
