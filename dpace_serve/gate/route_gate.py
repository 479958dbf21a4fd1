"""RouteGate: lets through what is open, on the listener that it belongs to, to whom may call it."""

from http import HTTPStatus

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Receive, Scope, Send

from dpace_serve.gate.key_ring import KeyRing
from dpace_serve.gate.observation import is_observation
from dpace_serve.gate.refusal import CountRefusal, RequestError
from dpace_serve.gate.route_table import HEALTH_PATH, RouteTable, is_observing
from dpace_serve.web.key_guard import is_ours


class RouteGate:
    """Denies by default. What is below /dpace has a guard of its own, further in."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        routes: RouteTable,
        keys: KeyRing,
        has_observation: bool,
        count: CountRefusal,
    ) -> None:
        """Stand before an application.

        Args:
            app: What is behind.
            routes: Open routes of the engine.
            keys: Who may call them.
            has_observation: Whether metrics and drafters have a listener of their own.
            count: Told of each refusal.
        """
        self._app = app
        self._routes = routes
        self._keys = keys
        self._has_observation = has_observation
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or say why not."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no open route is a websocket
            self._count("route")
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            self._check(scope)
        except RequestError as refusal:
            self._count(refusal.reason)
            await refusal.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        # The very path that the engine's router will match, never that of the URL: the Host header
        # can forge it (CVE-2026-48746).
        path = get_route_path(scope)
        has_one_place = self._has_observation and path != HEALTH_PATH
        if has_one_place and is_observing(scope) != is_observation(scope):
            raise _no_route()
        if is_ours(scope):
            return
        methods = self._routes.methods(path)
        if not methods:
            raise _no_route()
        access = methods.get(scope["method"])
        if access is None:
            allowed = ", ".join(sorted(methods))
            raise RequestError(
                "route",
                HTTPStatus.METHOD_NOT_ALLOWED,
                f"This route must be called with {allowed}. Change the method.",
                {"Allow": allowed},
            )
        if access == "engine" and not self._keys.opens_engine(scope):
            raise _no_key("API key")
        if access == "metrics" and not self._keys.opens_metrics(scope):
            raise _no_key("metrics key")


def _no_route() -> RequestError:
    return RequestError(
        "route",
        HTTPStatus.NOT_FOUND,
        "This server has no such route, or has not opened it here. Its operator can, with "
        "open_routes.",
    )


def _no_key(name: str) -> RequestError:
    return RequestError(
        "key",
        HTTPStatus.UNAUTHORIZED,
        f"This route needs the server's {name}. Send it as 'Authorization: Bearer KEY'.",
        {"WWW-Authenticate": "Bearer"},
    )
