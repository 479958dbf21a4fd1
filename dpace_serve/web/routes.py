"""The routes below /dpace that read: acceptance, verdicts, drafters, and the live page."""

import time
from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import JSONResponse

from dpace_serve.dashboard.files import read_files
from dpace_serve.dashboard.routes import build_router, public_paths
from dpace_serve.live.comparisons import Comparisons
from dpace_serve.live.operations import Operations
from dpace_serve.live.record_book import MAX_RECORDS
from dpace_serve.live.record_ring import MAX_NUMBER, MAX_READ
from dpace_serve.web import admin_routes
from dpace_serve.web.acceptance_view import AcceptanceView
from dpace_serve.web.key_guard import PREFIX, KeyGuard, is_admin, require_separate
from dpace_serve.web.validated_route import ValidatedRoute

router = APIRouter(prefix=PREFIX, tags=["dpace"], route_class=ValidatedRoute)


@router.get("/acceptance")
async def acceptance(
    request: Request,
    records: Annotated[int, Query(ge=0, le=MAX_RECORDS, description="newest requests to add")] = 0,
) -> dict[str, Any]:
    """Acceptance since the server started; `drafter` is null where nothing is drafted.

    Records have a hash in place of the request's id, unless the admin key was sent.
    """
    recorder: AcceptanceView | None = request.app.state.dpace
    if recorder is None:
        return {"drafter": None}
    return recorder.snapshot(records, shows_ids=is_admin(request.scope))


@router.get("/acceptance/records")
async def acceptance_records(
    request: Request,
    after: Annotated[
        int, Query(ge=0, le=MAX_NUMBER, description="number of the last record read")
    ] = 0,
    limit: Annotated[int, Query(ge=0, le=MAX_READ, description="records at most")] = MAX_READ,
) -> JSONResponse:
    """Records in the order of their numbers, for a reader that follows them.

    `boot` differs after a restart, when the numbers begin again, and is null where nothing is
    drafted. Records have a hash in place of the request's id, unless the admin key was sent.
    """
    recorder: AcceptanceView | None = request.app.state.dpace
    if recorder is None:
        return JSONResponse({"boot": None, "oldest": 1, "newest": 0, "records": []})
    # As a response of its own: FastAPI would walk through every step of every record in Python.
    return JSONResponse(recorder.records_after(after, limit, shows_ids=is_admin(request.scope)))


@router.get("/history")
async def history(request: Request) -> dict[str, Any]:
    """How the sums of /acceptance have grown; no points where nothing is drafted."""
    recorder: AcceptanceView | None = request.app.state.dpace
    return {"points": []} if recorder is None else recorder.history()


@router.get("/drafters")
async def drafters(request: Request) -> dict[str, Any]:
    """The drafters that are loaded, their roles and requests; none where nothing is drafted.

    `draw_salt` is null unless the admin key was sent: with it a client could choose its drafter.
    """
    operations: Operations | None = getattr(request.app.state, "dpace_operations", None)
    if operations is None:
        return {"drafters": []}
    return operations.drafters(shows_salt=is_admin(request.scope))


@router.get("/verdict")
async def verdict(request: Request) -> dict[str, Any]:
    """Whether each challenger should replace the champion, with interval, reason and history."""
    comparisons: Comparisons | None = getattr(request.app.state, "dpace_comparisons", None)
    if comparisons is None:
        return {"champion": None, "time": time.time(), "comparisons": []}
    return comparisons.to_dict()


def attach(app: FastAPI, keys: Iterable[str], admin_key: str | None = None) -> None:
    """Add the routes behind their guard, and the page that shows them, whose files are public.

    Args:
        app: The engine's application; its `state.dpace_operations` changes the drafters.
        keys: API keys, each of which opens what reads; none leaves that open.
        admin_key: Key that opens what changes drafters; none keeps it shut.

    Raises:
        ConfigError: If an API key is the admin key too.
    """
    read_keys = tuple(keys)
    require_separate(read_keys, admin_key)
    app.include_router(router)
    app.include_router(admin_routes.router)
    files = read_files()
    app.include_router(build_router(files, PREFIX))
    app.add_middleware(
        KeyGuard,
        api_keys=read_keys,
        admin_key=admin_key,
        public_paths=public_paths(files, PREFIX),
        on_unauthorized=admin_routes.count_unauthorized,
    )
