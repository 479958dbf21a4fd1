"""What a stopping server does for its records: it fetches before the engine stops, closes last.

vLLM's `shutdown` of the engine is the drain itself: running answers go on to come while it waits in
a thread of its own, and the engine takes no other calls any more. A client that reads slowly takes
the last of its answer later still. The application's lifespan ends after all of them.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI
    from vllm.engine.protocol import EngineClient

logger = logging.getLogger(__name__)


def call_before_shutdown(
    engine_client: "EngineClient",
    finish: Callable[[], Coroutine[Any, Any, None]],
    *,
    timeout_seconds: float,
) -> None:
    """Have something done on this event loop before the engine is shut down for the first time.

    A shutdown from the loop's own thread comes after the drain, or after the engine's death: there
    is nothing to do before it then.

    Args:
        engine_client: The engine, whose `shutdown` is replaced.
        finish: What to do; whatever it raises, the engine is shut down.
        timeout_seconds: How long the shutdown waits for it.
    """
    loop, thread = asyncio.get_running_loop(), threading.get_ident()
    shutdown = engine_client.shutdown
    is_first = True

    def finish_and_shut_down(timeout: float | None = None) -> None:
        nonlocal is_first
        if is_first and threading.get_ident() != thread and loop.is_running():
            is_first = False
            finishing = asyncio.run_coroutine_threadsafe(finish(), loop)
            try:
                finishing.result(timeout_seconds)
            except Exception:  # whatever it is, the server must end
                finishing.cancel()
                logger.exception("shadows of the last requests may be lost")
        shutdown(timeout=timeout)

    engine_client.shutdown = finish_and_shut_down


def call_after_answers(app: "FastAPI", close: Callable[["FastAPI"], Awaitable[None]]) -> None:
    """Have something done when the application ends, after the last answer has been taken.

    Args:
        app: Whose lifespan is extended.
        close: What to do, while its state is still there.
    """
    lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan_and_close(started: "FastAPI") -> AsyncIterator[Any]:
        async with lifespan(started) as state:
            try:
                yield state
            finally:
                await close(started)

    app.router.lifespan_context = lifespan_and_close
