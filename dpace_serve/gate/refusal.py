"""Why a request is not passed on to the engine, and how it is told."""

from collections.abc import Callable
from http import HTTPStatus

from starlette.responses import JSONResponse

from dpace_serve.errors import DpaceError
from dpace_serve.metrics.labels import RefusalReason
from dpace_serve.web.error_response import error_response

CountRefusal = Callable[[RefusalReason], None]
"""Told of each request that is not passed on, or whose answer is ended early."""


class RequestError(DpaceError):
    """A request that must not reach the engine.

    Attributes:
        reason: What it is counted as.
        status: Status of the answer.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        reason: RefusalReason,
        status: HTTPStatus,
        message: str,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason: RefusalReason = reason
        self.status = status
        self.headers = headers or {}

    def response(self) -> JSONResponse:
        """The answer, in the OpenAI shape; its connection ends, as its body may not be read."""
        return error_response(self.status, str(self), {**self.headers, "Connection": "close"})
