"""Routes whose parameters are refused in the OpenAI shape, whatever the engine around them does."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from dpace_serve.web.error_response import error_response


class ValidatedRoute(APIRoute):
    """A route that answers 422 itself: FastAPI has another shape, vLLM another status."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, inside of which parameters are read."""
        handle = super().get_route_handler()

        async def handle_or_refuse(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                first = error.errors()[0]
                # Nothing of what the client sent: its name and the rule are ours.
                message = f"{first['loc'][-1]}: {first['msg']}. Correct the request."
                return error_response(HTTPStatus.UNPROCESSABLE_ENTITY, message)

        return handle_or_refuse
