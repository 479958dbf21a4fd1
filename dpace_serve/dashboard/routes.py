"""The routes of the live page. It holds no data, so it needs no key; what it reads does.

Every path is known before the first request: nothing that a client sends becomes a path.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from dpace_serve.dashboard.files import PAGE, PLOTLY, StaticFile

METHODS = ("GET", "HEAD")

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",  # plotly.js keeps to it where charts.css takes the place of its styles
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Kept, but asked about each time: an upgraded server shows its own page at once.
    "Cache-Control": "no-cache",
}


def build_router(files: Mapping[str, StaticFile], prefix: str) -> APIRouter:
    """Routes for the page, its parts, and the way to it without the last slash.

    Args:
        files: From `read_files`.
        prefix: Path below which they are, as `/dpace`.
    """
    router = APIRouter(include_in_schema=False)
    for path, name in _names_by_path(files, prefix).items():
        router.add_api_route(path, _sending(files[name]), methods=list(METHODS))
    router.add_api_route(prefix, _redirecting(prefix), methods=list(METHODS))
    return router


def public_paths(files: Mapping[str, StaticFile], prefix: str) -> frozenset[str]:
    """The paths of `build_router`, which anyone may read.

    That of plotly.js is one even where it is missing: the page shall see a 404, not a guard.

    Args:
        files: From `read_files`.
        prefix: As there.
    """
    return frozenset({prefix, f"{prefix}/static/{PLOTLY}", *_names_by_path(files, prefix)})


def documented_paths(files: Mapping[str, StaticFile], prefix: str) -> dict[str, Any]:
    """The routes of `build_router` as an OpenAPI document has them.

    Args:
        files: From `read_files`.
        prefix: As there.
    """
    moved = {"308": {"description": "Permanent Redirect: the page has a slash at its end"}}
    paths: dict[str, Any] = {prefix: _documented("The way to the live page", moved)}
    for path, name in _names_by_path(files, prefix).items():
        sent: dict[str, Any] = {
            "200": {"description": "The file", "content": {files[name].media_type: {}}},
            "304": {"description": "Not Modified"},
        }
        paths[path] = _documented(f"The live page: {name}", sent)
    return paths


def _documented(summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {
        method.lower(): {"summary": summary, "tags": ["dpace"], "responses": dict(responses)}
        for method in METHODS
    }


def _names_by_path(files: Mapping[str, StaticFile], prefix: str) -> dict[str, str]:
    parts = {f"{prefix}/static/{name}": name for name in files if name != PAGE}
    return {f"{prefix}/": PAGE, **parts}


def _sending(file: StaticFile) -> Callable[[Request], Awaitable[Response]]:
    headers = {**_HEADERS, "ETag": file.etag}

    async def send(request: Request) -> Response:
        if _is_known(request.headers.get("If-None-Match", ""), file.etag):
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.media_type, headers=headers)

    return send


def _redirecting(prefix: str) -> Callable[[], Awaitable[Response]]:
    # Relative, so that it holds behind a proxy that adds a path of its own.
    target = f"{prefix.rpartition('/')[2]}/"

    async def redirect() -> Response:
        return RedirectResponse(target, status_code=308, headers=_HEADERS)

    return redirect


def _is_known(if_none_match: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags
