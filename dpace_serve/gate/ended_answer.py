"""An answer that can be ended from outside: its client learns why, its engine stops working on it.

The application inside is told that its client has left. That is what every engine knows how to
abort a request for; cancelling its task is not enough, because a route may have given the work to
another task.
"""

import asyncio
import json
import logging
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dpace_serve.web.error_response import error_content, error_response

logger = logging.getLogger(__name__)

CLIENT_SECONDS = 2.0
"""How long a client may take to be told; one that does not read is cut off."""
ENGINE_SECONDS = 5.0
"""How long the application may take to stop by itself, and again after it was cancelled."""

_EVENT_STREAM = "text/event-stream"
_LAST_EVENT = b"data: [DONE]\n\n"
_BLANK_LINES = (b"\n\n", b"\r\r", b"\r\n\r\n")


@dataclass(frozen=True, slots=True)
class Ending:
    """Why an answer is ended.

    Attributes:
        status: Of an answer that has not begun.
        message: What happened and what the client can do.
        headers: Of an answer that has not begun.
    """

    status: HTTPStatus
    message: str
    headers: dict[str, str] = field(default_factory=dict)


class EndableAnswer:
    """One request's answer: the application's own, until it is ended.

    Ended, an answer that has not begun becomes an error; an event stream gets one more event, the
    error, and the stream's own last one; the connection of any other is cut, so that nobody takes
    a part for the whole.
    """

    def __init__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._waits: set[asyncio.Timeout] = set()
        self._sending = asyncio.Lock()
        self._progress = _Progress()

    @property
    def ended_by(self) -> Ending | None:
        """Why it was ended; none if it was not."""
        is_ended = self._ending.done() and not self._ending.cancelled()
        return self._ending.result() if is_ended else None

    def end(self, ending: Ending) -> None:
        """End the answer, unless it has ended; only from its event loop's thread."""
        if not self._ending.done():
            self._ending.set_result(ending)
            self._leave()

    async def run(self) -> None:
        """Answer, and return when the client has all it will get and the application has stopped.

        Raises:
            Exception: Whatever the application raises before the answer is ended.
        """
        answering = asyncio.ensure_future(self._app(self._scope, self._take, self._pass_on))
        try:
            await asyncio.wait((answering, self._ending), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                await answering  # raises what it raised
            else:
                await self._tell_client(self._ending.result())
                await _stop(answering)
        finally:
            if not answering.done():  # the server itself cancelled us
                self._ending.cancel()
                self._leave()
                answering.cancel()

    async def _take(self) -> Message:
        """The server's next message, or that the client has left once the answer is ended."""
        if self._ending.done():
            return {"type": "http.disconnect"}
        # Not raced by a task of its own: Starlette looks for what is there within one turn of the
        # event loop.
        wait = asyncio.timeout(None)
        self._waits.add(wait)
        try:
            async with wait:
                return await self._receive()
        except TimeoutError:
            if not wait.expired():  # it is the server's own
                raise
            return {"type": "http.disconnect"}
        finally:
            self._waits.discard(wait)

    async def _pass_on(self, message: Message) -> None:
        if self._ending.done():
            return
        async with self._sending:
            # A server waits for its client before it writes, never between two parts of a message:
            # one whose wait was cancelled has not been sent.
            await self._send(message)
            self._progress.note(message)

    def _leave(self) -> None:
        """Wake whatever waits for the server's next message."""
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            wait.reschedule(now)

    async def _tell_client(self, ending: Ending) -> None:
        try:
            async with asyncio.timeout(CLIENT_SECONDS), self._sending:
                await self._finish(ending)
        except TimeoutError:
            logger.warning(
                "a client did not read the end of its answer (%s): it is cut off", ending.message
            )

    async def _finish(self, ending: Ending) -> None:
        progress = self._progress
        if progress.is_complete:
            return
        if not progress.is_started:
            response = error_response(ending.status, ending.message, ending.headers)
            await response(self._scope, self._receive, self._send)
        elif progress.is_between_events:
            body = b"" if progress.has_last_event else _error_event(ending) + _LAST_EVENT
            await self._send({"type": "http.response.body", "body": body, "more_body": False})
        # Else the server cuts the connection, because the body has no end.


class _Progress:
    """How far an answer has come.

    Attributes:
        is_started: Whether its status and headers have been sent.
        is_complete: Whether its body has ended.
    """

    def __init__(self) -> None:
        self.is_started = False
        self.is_complete = False
        self._is_event_stream = False
        self._tail = b""

    @property
    def is_between_events(self) -> bool:
        """Whether it is an event stream in which an event may begin."""
        return self._is_event_stream and (not self._tail or self._tail.endswith(_BLANK_LINES))

    @property
    def has_last_event(self) -> bool:
        """Whether the event has been sent that no other may follow."""
        return self._tail == _LAST_EVENT

    def note(self, message: Message) -> None:
        """Take in a message that has been sent."""
        if message["type"] == "http.response.start":
            self.is_started = True
            headers = Headers(raw=message.get("headers", []))
            self._is_event_stream = _is_readable_event_stream(headers)
        elif message["type"] == "http.response.body":
            self.is_complete = not message.get("more_body", False)
            if self._is_event_stream:
                self._note_body(message.get("body", b""))

    def _note_body(self, body: bytes) -> None:
        size = len(_LAST_EVENT)
        if len(body) >= size:
            self._tail = bytes(body[-size:])
        elif body:
            self._tail = (self._tail + bytes(body))[-size:]


def _is_readable_event_stream(headers: Headers) -> bool:
    """Whether plain events may be added to a body."""
    is_stream = headers.get("Content-Type", "").partition(";")[0].strip() == _EVENT_STREAM
    return is_stream and "Content-Encoding" not in headers and "Content-Length" not in headers


def _error_event(ending: Ending) -> bytes:
    content = json.dumps(error_content(ending.status, ending.message), separators=(",", ":"))
    return f"data: {content}\n\n".encode()


async def _stop(answering: asyncio.Future[None]) -> None:
    """Wait until an application that was told of its client's leave has stopped."""
    await asyncio.wait((answering,), timeout=ENGINE_SECONDS)
    if not answering.done():
        answering.cancel()
        await asyncio.wait((answering,), timeout=ENGINE_SECONDS)
    if not answering.done():
        logger.error("an answer that was ended still runs: the engine may work on it")
    elif not answering.cancelled() and (error := answering.exception()) is not None:
        # Routes complain of a client that leaves early, and this one has been told all.
        logger.debug("an answer that was ended raised %r", error)
