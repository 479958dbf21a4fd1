"""StartPass: lets SGLang's own start through the gate, and nobody else.

SGLang warms itself up by asking its own HTTP server, by routes that are shut and under a name that
may not be allowed. It kills itself where it is refused.
"""

import hmac
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Receive, Scope, Send

ROUTES = frozenset({
    "GET /model_info",
    "POST /freeze_gc",
    "POST /generate",
    "POST /v1/chat/completions",
})  # fmt: skip
"""What SGLang asks of itself before it is ready."""
_KEY_BYTES = 32


class StartPass:
    """A key of this process alone, for as long as its server starts."""

    def __init__(self, lend: Callable[[str], AbstractContextManager[object]]) -> None:
        """Begin without a key.

        Args:
            lend: Has SGLang send a key with what it asks of itself, until the context ends.
        """
        self._lend = lend
        self._lent = ExitStack()
        self._authorization: bytes | None = None

    def begin(self) -> None:
        """Make the key, and give it to SGLang."""
        key = secrets.token_urlsafe(_KEY_BYTES)
        self._lent.enter_context(self._lend(key))
        self._authorization = f"Bearer {key}".encode()

    def end(self) -> None:
        """Forget the key: from now on it opens nothing."""
        self._authorization = None
        self._lent.close()

    def before(self, callback: Callable[[], None] | None) -> Callable[[], None]:
        """What SGLang is to call when it is ready: first this ends.

        Args:
            callback: What is called then; none if there is nothing else.
        """

        def end_then_call() -> None:
            self.end()
            if callback is not None:
                callback()

        return end_then_call

    def opens(self, scope: Scope) -> bool:
        """Whether a request is SGLang's own."""
        wanted = self._authorization  # once: the thread that warms up may end it meanwhile
        if wanted is None or scope["type"] != "http":
            return False
        given = dict(scope["headers"]).get(b"authorization", b"")
        is_known = f"{scope['method']} {get_route_path(scope)}" in ROUTES
        return is_known and hmac.compare_digest(given, wanted)


class StartPassCheck:
    """Sends what has the pass past the gate, and everything else to it."""

    def __init__(self, gate: ASGIApp, engine: ASGIApp, start_pass: StartPass) -> None:
        """Stand before a gate.

        Args:
            gate: The gate, with the engine's application behind it.
            engine: That same application, without the gate.
            start_pass: Begun here, before SGLang starts to ask.
        """
        self._gate = gate
        self._engine = engine
        self._start_pass = start_pass

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Choose the way in."""
        if scope["type"] == "lifespan":
            self._start_pass.begin()
        app = self._engine if self._start_pass.opens(scope) else self._gate
        await app(scope, receive, send)
