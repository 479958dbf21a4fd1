"""The workload of a request in a header, for clients that cannot set `vllm_xargs`."""

from contextvars import ContextVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

WORKLOAD_HEADER = "X-DPACE-Workload"

_workload: ContextVar[str | None] = ContextVar("dpace_workload", default=None)


class WorkloadHeader:
    """Remembers the header for everything that is done for its request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http":
            _workload.set(Headers(scope=scope).get(WORKLOAD_HEADER))
        await self._app(scope, receive, send)


def workload_of_header() -> str | None:
    """What the header of the present request says; None without one."""
    return _workload.get()
