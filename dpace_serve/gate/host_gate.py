"""HostGate: lets requests through that ask by a name that is the server's.

A web page can have its own name resolved to this machine, and then read from a server there what no
other site may (DNS rebinding). Its requests still carry that name.
"""

import ipaddress
from collections.abc import Collection
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from dpace_serve.gate.refusal import CountRefusal, RequestError

_LOCALHOST = "localhost"


class HostGate:
    """Compares the name in the Host header; the port does not matter."""

    def __init__(
        self, app: ASGIApp, *, names: Collection[str], loopback_only: bool, count: CountRefusal
    ) -> None:
        """Stand before an application.

        Args:
            app: What is behind.
            names: Names that may be asked by; none is any name.
            loopback_only: Without names, whether only those of loopback may.
            count: Told of each refusal.
        """
        self._app = app
        self._names = frozenset(name.lower().strip("[]") for name in names)
        self._loopback_only = loopback_only
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 421."""
        if scope["type"] != "http" or self._is_allowed(scope):
            await self._app(scope, receive, send)
            return
        refusal = RequestError(
            "host",
            HTTPStatus.MISDIRECTED_REQUEST,
            "This server does not answer to that name. Ask by its own, or have its operator add "
            "the name to allowed_hosts.",
        )
        self._count(refusal.reason)
        await refusal.response()(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        if not self._names and not self._loopback_only:
            return True
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1:
            return False
        name = _without_port(hosts[0].decode("latin-1")).lower()
        return name in self._names if self._names else is_loopback(name)


def is_loopback(name: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    if name.lower().rstrip(".") == _LOCALHOST:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
