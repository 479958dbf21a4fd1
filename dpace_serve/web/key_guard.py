"""KeyGuard: who may read below /dpace, and who may change the drafters."""

import hashlib
import hmac
from collections.abc import Callable, Collection, Iterable
from http import HTTPStatus

from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from dpace_serve.errors import ConfigError
from dpace_serve.web.error_response import error_response

PREFIX = "/dpace"

_READING = ("GET", "HEAD", "OPTIONS")
_FETCHING = ("GET", "HEAD")
_IS_ADMIN = "dpace.is_admin"


class KeyGuard:
    """Guards everything below /dpace, which the engine's own guard leaves open.

    Reading needs one of the API keys, where there are any, or the admin key; only the page's own
    files, which hold no data, can be fetched without. Every other method needs the admin key, and
    is refused where there is none.
    """

    def __init__(
        self,
        app: ASGIApp,
        api_keys: Iterable[str],
        admin_key: str | None,
        public_paths: Collection[str],
        on_unauthorized: Callable[[Scope], None],
    ) -> None:
        """Wrap an application.

        Args:
            app: What is guarded.
            api_keys: Keys for reading; none leaves reading open.
            admin_key: Key for changes; none refuses them.
            public_paths: Whole paths that GET and HEAD may ask for without a key.
            on_unauthorized: Told of each change that was asked for without the admin key.
        """
        self._app = app
        self._public_paths = frozenset(public_paths)
        self._on_unauthorized = on_unauthorized
        keys = tuple(api_keys)
        self._admin_hashes = () if admin_key is None else (key_hash(admin_key),)
        self._read_hashes = (*map(key_hash, keys), *self._admin_hashes) if keys else ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or 403, or pass the request on."""
        refusal = None
        if is_ours(scope):
            refusal = self._refusal(scope)
            scope = {**scope, _IS_ADMIN: has_key(Headers(scope=scope), self._admin_hashes)}
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        if self._is_public(scope):
            return None
        if scope.get("method", "GET") in _READING:  # a websocket has none
            if not self._read_hashes or has_key(headers, self._read_hashes):
                return None
            return _unauthorized("API key")
        if not self._admin_hashes:
            message = (
                "This server has no admin key, so its drafters cannot be changed. Start it with "
                "one."
            )
            return error_response(HTTPStatus.FORBIDDEN, message)
        if has_key(headers, self._admin_hashes):
            return None
        self._on_unauthorized(scope)
        return _unauthorized("admin key")

    def _is_public(self, scope: Scope) -> bool:
        # The very path that the router will match, so that nothing else can be reached by it.
        is_fetched = scope["type"] == "http" and scope["method"] in _FETCHING
        return is_fetched and get_route_path(scope) in self._public_paths


def is_admin(scope: Scope) -> bool:
    """Whether a request that the guard let through came with the admin key."""
    return scope.get(_IS_ADMIN) is True


def require_separate(api_keys: Iterable[str], admin_key: str | None) -> None:
    """Check that no API key opens what only the admin key should.

    Raises:
        ConfigError: If one does.
    """
    if admin_key in tuple(api_keys):
        raise ConfigError(
            "the admin key must not be an API key, because every user could change the drafters "
            "with it. Choose another."
        )


def _unauthorized(key: str) -> JSONResponse:
    message = f"This route needs the server's {key}. Send it as 'Authorization: Bearer KEY'."
    return error_response(HTTPStatus.UNAUTHORIZED, message, {"WWW-Authenticate": "Bearer"})


def has_key(headers: Headers, hashes: tuple[bytes, ...]) -> bool:
    """Whether a request came with one of these keys."""
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    given = key_hash(key)
    # All are compared, so that the time taken does not tell which one is near.
    matches = [hmac.compare_digest(given, known) for known in hashes]
    return scheme.lower() == "bearer" and any(matches)


def is_ours(scope: Scope) -> bool:
    """Whether a request is for something below /dpace."""
    if scope["type"] not in ("http", "websocket"):
        return False
    # Never the URL: its path can be forged with the Host header (CVE-2026-48746).
    # The router strips the root path only where a whole part of the path matches it.
    paths = (str(scope["path"]), get_route_path(scope))
    return any(path == PREFIX or path.startswith(f"{PREFIX}/") for path in paths)


def key_hash(key: str) -> bytes:
    """What is kept of a key, and compared."""
    return hashlib.sha256(key.encode()).digest()
