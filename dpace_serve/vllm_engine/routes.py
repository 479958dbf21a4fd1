"""`GET /dpace/acceptance`: the drafter, its sums and its newest records as JSON."""

import hashlib
import hmac
import os
from argparse import Namespace
from collections.abc import Iterable
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from dpace_serve.vllm_engine.recorder import MAX_RECORDS, AcceptanceRecorder

PREFIX = "/dpace"

router = APIRouter(prefix=PREFIX, tags=["dpace"])


@router.get("/acceptance")
async def acceptance(
    request: Request,
    records: Annotated[int, Query(ge=0, le=MAX_RECORDS, description="newest requests to add")] = 0,
) -> dict[str, Any]:
    """Acceptance since the server started; `drafter` is null where nothing is drafted."""
    recorder: AcceptanceRecorder | None = request.app.state.dpace
    return {"drafter": None} if recorder is None else recorder.snapshot(records)


def attach(app: FastAPI, keys: Iterable[str]) -> None:
    """Add the routes; with keys, each request to them must carry one."""
    app.include_router(router)
    hashes = tuple(_hash(key) for key in keys)
    if hashes:
        app.add_middleware(KeyGuard, key_hashes=hashes)


def api_keys(args: Namespace) -> list[str]:
    """The engine's own API keys: `--api-key`, or else VLLM_API_KEY."""
    return [key for key in (args.api_key or [os.environ.get("VLLM_API_KEY")]) if key]


class KeyGuard:
    """Refuses requests below /dpace without a key: the engine's own guard leaves them open."""

    def __init__(self, app: ASGIApp, key_hashes: tuple[bytes, ...]) -> None:
        self._app = app
        self._key_hashes = key_hashes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, or pass the request on."""
        if not _is_ours(scope) or self._has_key(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        message = "This route needs the server's API key. Send it as 'Authorization: Bearer KEY'."
        response = JSONResponse(
            {
                "error": {
                    "message": message,
                    "type": "AuthenticationError",
                    "param": None,
                    "code": HTTPStatus.UNAUTHORIZED,
                }
            },
            status_code=HTTPStatus.UNAUTHORIZED,
            headers={"WWW-Authenticate": "Bearer"},
        )
        await response(scope, receive, send)

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("Authorization", "").partition(" ")
        given = _hash(key)
        # All are compared, so that the time taken does not tell which one is near.
        matches = [hmac.compare_digest(given, known) for known in self._key_hashes]
        return scheme.lower() == "bearer" and any(matches)


def _is_ours(scope: Scope) -> bool:
    if scope["type"] not in ("http", "websocket"):
        return False
    # Never the URL: its path can be forged with the Host header (CVE-2026-48746).
    # The router strips the root path only where a whole part of the path matches it.
    paths = (str(scope["path"]), get_route_path(scope))
    return any(path == PREFIX or path.startswith(f"{PREFIX}/") for path in paths)


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
