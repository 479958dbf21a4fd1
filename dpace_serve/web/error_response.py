"""Refusals as the OpenAI API writes them."""

from http import HTTPStatus

from starlette.responses import JSONResponse

_TYPES = {
    HTTPStatus.UNAUTHORIZED: "AuthenticationError",
    HTTPStatus.FORBIDDEN: "PermissionDeniedError",
    HTTPStatus.NOT_FOUND: "NotFoundError",
    HTTPStatus.CONFLICT: "ConflictError",
    HTTPStatus.UNPROCESSABLE_ENTITY: "UnprocessableEntityError",
    HTTPStatus.TOO_MANY_REQUESTS: "RateLimitError",
}


def error_response(
    status: HTTPStatus, message: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """An error in the OpenAI shape."""
    kind = _TYPES.get(
        status,
        "InternalServerError" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "BadRequestError",
    )
    error = {"message": message, "type": kind, "param": None, "code": status}
    return JSONResponse({"error": error}, status_code=status, headers=headers)
