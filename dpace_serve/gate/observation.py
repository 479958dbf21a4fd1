"""A listener of its own for metrics, page and drafters, which a network can keep apart."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dpace_serve.gate.tls import uvicorn_tls
from dpace_serve.gate_config import ObservationConfig, TlsConfig

_IS_OBSERVATION = "dpace.is_observation"
_LAST_ANSWERS_SECONDS = 2


def is_observation(scope: Scope) -> bool:
    """Whether a request came in by the listener for observation."""
    return scope.get(_IS_OBSERVATION) is True


class Observation:
    """Listens as long as the application lives, which is longer than it takes requests."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        application: ASGIApp,
        config: ObservationConfig,
        tls: TlsConfig | None,
    ) -> None:
        """Stand before an application.

        Args:
            app: What is behind.
            application: The whole application, which answers on this listener too.
            config: Where to listen.
            tls: Encryption; none speaks plain HTTP.
        """
        self._app = app
        self._application = application
        self._config = config
        self._tls = tls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on, and listen between the beginning and the end of the lifespan."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        listener = _Listener(self._settings(), self._config)

        async def send_and_listen(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                try:
                    listener.start()
                except OSError as error:
                    reason = f"observation: port {self._config.port}: {error.strerror}"
                    message = {"type": "lifespan.startup.failed", "message": reason}
            elif message["type"].startswith("lifespan.shutdown"):
                await listener.stop()  # before the server knows that all is done, and ends the loop
            await send(message)

        try:
            await self._app(scope, receive, send_and_listen)
        finally:
            await listener.stop()

    async def _mark(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._application({**scope, _IS_OBSERVATION: True}, receive, send)

    def _settings(self) -> uvicorn.Config:
        keys = uvicorn_tls(self._tls) if self._tls else None
        return uvicorn.Config(
            self._mark,
            interface="asgi3",  # a bound method would be taken for another
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_LAST_ANSWERS_SECONDS,
            ssl_certfile=keys and keys["ssl_certfile"],
            ssl_keyfile=keys and keys["ssl_keyfile"],
            ssl_ca_certs=keys and keys["ssl_ca_certs"],
            ssl_cert_reqs=keys["ssl_cert_reqs"] if keys else ssl.CERT_NONE,
        )


class _Listener:
    """A server in the event loop of another."""

    def __init__(self, settings: uvicorn.Config, config: ObservationConfig) -> None:
        self._server = _Server(settings)
        self._config = config
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> None:
        family = socket.AF_INET6 if ":" in self._config.host else socket.AF_INET
        listening = socket.create_server((self._config.host, self._config.port), family=family)
        listening.setblocking(False)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]))

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving


class _Server(uvicorn.Server):
    """The engine's own server hears the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
