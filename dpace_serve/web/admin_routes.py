"""The routes below /dpace that change the drafters; the key guard asks for the admin key."""

from collections.abc import Awaitable
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field, ValidationError
from starlette._utils import get_route_path
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import Scope

from dpace_serve.config import Config
from dpace_serve.errors import SwapError
from dpace_serve.live.admission import NAME_PATTERN, REVISION_PATTERN, DrafterRequest
from dpace_serve.live.operations import OperationName, Operations
from dpace_serve.web.error_response import error_response
from dpace_serve.web.key_guard import PREFIX
from dpace_serve.web.model_document import body_document, query_document

MAX_BODY_BYTES = 64 * 1024

router = APIRouter(prefix=PREFIX, tags=["dpace"])


class ChallengerChoice(Config):
    """Which challenger is meant."""

    model_config = ConfigDict(strict=True)

    name: Annotated[str, Field(pattern=NAME_PATTERN)] | None = None
    """Its name; not needed where there is one only."""
    revision: Annotated[str, Field(pattern=REVISION_PATTERN)] | None = None
    """What its revision must start with, so that no other drafter of its name is meant."""


BodyT = TypeVar("BodyT", DrafterRequest, ChallengerChoice)


@router.put("/drafters/champion", openapi_extra=body_document(DrafterRequest))
async def swap(request: Request) -> JSONResponse:
    """Load a drafter and let it serve the requests that come from now on."""
    return await _answered(_swap(request))


@router.put("/drafters/challenger", openapi_extra=body_document(DrafterRequest))
async def challenge(request: Request) -> JSONResponse:
    """Load a drafter and compare it with the champion."""
    return await _answered(_challenge(request))


@router.delete("/drafters/challenger", openapi_extra=query_document(ChallengerChoice))
async def drop(request: Request) -> JSONResponse:
    """End a challenger's comparison; `?name=` where there are several, `&revision=` to be sure."""
    return await _answered(_drop(request))


@router.post("/promote", openapi_extra=body_document(ChallengerChoice, is_required=False))
async def promote(request: Request) -> JSONResponse:
    """Make a challenger the champion."""
    return await _answered(_promote(request))


_OPERATIONS: dict[tuple[str, str], OperationName] = {
    ("PUT", f"{PREFIX}/drafters/champion"): "swap",
    ("PUT", f"{PREFIX}/drafters/challenger"): "challenge",
    ("DELETE", f"{PREFIX}/drafters/challenger"): "drop",
    ("POST", f"{PREFIX}/promote"): "promote",
}


def count_unauthorized(scope: Scope) -> None:
    """Count a change that was asked for without the admin key, where it has a route."""
    operation = _OPERATIONS.get((scope.get("method", ""), get_route_path(scope)))
    operations: Operations | None = getattr(scope["app"].state, "dpace_operations", None)
    if operation is not None and operations is not None:
        operations.unauthorized(operation)


async def _swap(request: Request) -> dict[str, Any]:
    return await _operations(request).swap(await _body(request, DrafterRequest))


async def _challenge(request: Request) -> dict[str, Any]:
    return await _operations(request).challenge(await _body(request, DrafterRequest))


async def _drop(request: Request) -> dict[str, Any]:
    try:
        choice = ChallengerChoice.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise _malformed(error, ChallengerChoice) from None
    return await _operations(request).drop(choice.name, choice.revision)


async def _promote(request: Request) -> dict[str, Any]:
    choice = await _body(request, ChallengerChoice)
    return await _operations(request).promote(choice.name, choice.revision)


async def _answered(operation: Awaitable[dict[str, Any]]) -> JSONResponse:
    try:
        return JSONResponse(await operation)
    except SwapError as error:
        return error_response(error.status, str(error))
    except ClientDisconnect:  # before its body was complete: nobody reads the answer
        return error_response(HTTPStatus.BAD_REQUEST, "the body must be complete. Send it again.")


def _operations(request: Request) -> Operations:
    operations: Operations | None = getattr(request.app.state, "dpace_operations", None)
    if operations is None:
        raise SwapError(
            "this server drafts nothing, so there is no drafter to change. Start it with one.",
            status=HTTPStatus.FORBIDDEN,
        )
    return operations


async def _body(request: Request, schema: type[BodyT]) -> BodyT:
    """Read a small JSON object; an empty body is an empty object.

    Raises:
        SwapError: If it is too large, no JSON, or not what the schema asks for.
    """
    body = bytearray()
    async for chunk in request.stream():  # its length is what comes, not what a header says
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise SwapError(
                f"the body must have at most {MAX_BODY_BYTES} bytes, got more. Send less.",
                status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
    try:
        return schema.model_validate_json(bytes(body) or b"{}")
    except ValidationError as error:
        raise _malformed(error, schema) from None


def _malformed(error: ValidationError, schema: type[Config]) -> SwapError:
    errors = error.errors(include_url=False, include_input=False)
    if any(one["type"] == "extra_forbidden" for one in errors):
        message = f"only these keys are known: {', '.join(schema.model_fields)}"
    else:
        key = ".".join(str(part) for part in errors[0]["loc"]) or "the body"
        message = f"{key}: {errors[0]['msg']}"
    return SwapError(f"{message}. Correct the request.", status=HTTPStatus.UNPROCESSABLE_ENTITY)
