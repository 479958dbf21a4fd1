"""Refusals as the OpenAI API writes them."""

from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse

_TYPES = {
    HTTPStatus.UNAUTHORIZED: "AuthenticationError",
    HTTPStatus.FORBIDDEN: "PermissionDeniedError",
    HTTPStatus.NOT_FOUND: "NotFoundError",
    HTTPStatus.CONFLICT: "ConflictError",
    HTTPStatus.UNPROCESSABLE_ENTITY: "UnprocessableEntityError",
    HTTPStatus.TOO_MANY_REQUESTS: "RateLimitError",
    HTTPStatus.SERVICE_UNAVAILABLE: "ServiceUnavailableError",
    HTTPStatus.GATEWAY_TIMEOUT: "TimeoutError",
}


def error_content(status: HTTPStatus, message: str) -> dict[str, Any]:
    """An error in the OpenAI shape, as the body of an answer or an event of a stream."""
    kind = _TYPES.get(
        status,
        "InternalServerError" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "BadRequestError",
    )
    return {"error": {"message": message, "type": kind, "param": None, "code": int(status)}}


def error_response(
    status: HTTPStatus, message: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """An error in the OpenAI shape."""
    return JSONResponse(error_content(status, message), status_code=status, headers=headers)
