"""Bodies of requests: read under a limit of size and of time, and given on whole."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from dpace_serve.gate.refusal import RequestError


class ClientLeft(Exception):  # noqa: N818  (nobody did anything wrong)
    """The client closed the connection before its body was whole."""


async def read_body(
    scope: Scope, receive: Receive, *, max_bytes: int, timeout_seconds: float
) -> bytes:
    """The whole body; its size is what comes, not what a header says.

    Args:
        scope: The request, whose Content-Length may tell sooner.
        receive: Where the body comes from.
        max_bytes: Most that is read.
        timeout_seconds: How long it may take.

    Raises:
        ClientLeft: If the client leaves before its end.
        RequestError: If it is too large or too slow.
    """
    length = Headers(scope=scope).get("Content-Length", "")
    if length.isascii() and length.isdigit() and int(length[:32]) > max_bytes:
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(timeout_seconds):
            return await _collect(receive, max_bytes)
    except TimeoutError:
        raise RequestError(
            "body",
            HTTPStatus.REQUEST_TIMEOUT,
            f"the body must come within {timeout_seconds:g} seconds. Send it faster, or less.",
        ) from None


async def _collect(receive: Receive, max_bytes: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        if not message.get("more_body", False):
            return bytes(body)


def replay(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """A `receive` that has the body first, and then whatever the client does.

    Args:
        body: The whole body.
        receive: Of the request, whose body has been read.
    """
    is_given = False

    async def receive_again() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(
        "body",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body must have at most {max_bytes} bytes. Send less.",
    )
