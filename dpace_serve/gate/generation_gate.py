"""GenerationGate: how much requests may ask for, one by one and all together."""

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from dpace_serve.gate.body import ClientLeft, read_body, replay
from dpace_serve.gate.refusal import CountRefusal, RequestError
from dpace_serve.gate.request_check import check, check_id, parse
from dpace_serve.gate.room import Room
from dpace_serve.gate_config import LimitsConfig
from dpace_serve.web.key_guard import is_ours

_ID_HEADERS = ("X-Request-Id", "X-Session-Id")
SCHEDULING_HEADERS = (
    b"x-data-parallel-rank",
    b"x-override-",
    b"x-smg-routing-key",
    b"x-vllm-priority",
)
"""With what begins so a client could choose its engine, go before all others, or set what its body
must not."""
_JSON = "application/json"
_WITHOUT_BODY = frozenset({"DELETE", "GET", "HEAD", "OPTIONS"})


class GenerationGate:
    """Reads the body of every request to the engine under its limits, and gives it on whole."""

    def __init__(self, app: ASGIApp, *, limits: LimitsConfig, count: CountRefusal) -> None:
        """Stand before an application.

        Args:
            app: What is behind.
            limits: Most that is let through.
            count: Told of each refusal.
        """
        self._app = app
        self._limits = limits
        self._count = count
        self._room = Room(limits.max_concurrent_answers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or say why not."""
        if scope["type"] != "http" or scope["method"] in _WITHOUT_BODY or is_ours(scope):
            await self._app(scope, receive, send)
            return
        num_taken = 0
        try:
            self._room.take(1)  # before its body takes memory
            num_taken = 1
            body, num_answers = await self._read(scope, receive)
            self._room.require_possible(num_answers)  # one of them is taken already
            self._room.take(num_answers - 1)
            num_taken = num_answers
            await self._app(_without_scheduling(scope), replay(body, receive), send)
        except RequestError as refusal:
            self._count(refusal.reason)
            await refusal.response()(scope, receive, send)
        except ClientLeft:
            pass  # nobody is there to be told
        finally:
            self._room.give_back(num_taken)

    async def _read(self, scope: Scope, receive: Receive) -> tuple[bytes, int]:
        """The body, and how many answers it asks for."""
        headers = Headers(scope=scope)
        if headers.get("Content-Type", "").partition(";")[0].strip().lower() != _JSON:
            # What a web page may send to any server without asking has another type.
            raise RequestError(
                "body",
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"the body must be {_JSON}. Say so in Content-Type.",
            )
        for name in _ID_HEADERS:
            if name in headers:
                check_id(headers[name])
        body = await read_body(
            scope,
            receive,
            max_bytes=self._limits.max_body_kilobytes * 1000,
            timeout_seconds=self._limits.body_timeout_seconds,
        )
        return body, check(parse(body), self._limits)


def _without_scheduling(scope: Scope) -> Scope:
    kept = [
        header
        for header in scope["headers"]
        if not header[0].lower().startswith(SCHEDULING_HEADERS)
    ]
    return scope if len(kept) == len(scope["headers"]) else {**scope, "headers": kept}
