"""What a stopping server does: answers finish, records are fetched, the engine stops, files close.

vLLM's `shutdown` of the engine is a drain too: running answers go on to come while it waits in a
thread of its own. But an engine that drains takes no other calls, and when it is stopped at its
limit, answers that still run hear nothing of it (vLLM 0.32 stops what hands outputs out). So
under `dpace serve` the answers have ended before the engine is told, as clients would end them.
Under vLLM's own commands its drain is the only one. A client that reads slowly takes the last of
its answer later still. The application's lifespan ends after all of them.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from dpace_serve.gate.draining import ENDING_SECONDS, Drain

if TYPE_CHECKING:
    from fastapi import FastAPI
    from vllm.engine.protocol import EngineClient

logger = logging.getLogger(__name__)

IDLE_ENGINE_SECONDS = 10.0
"""How long an engine may take to stop when no answer runs, before it is killed; on two busy cores
it took five."""


def drain_before_shutdown(
    engine_client: "EngineClient", drain: Drain, *, limit_seconds: float
) -> None:
    """Have all answers end before the engine is shut down for the first time.

    Args:
        engine_client: The engine, whose `shutdown` is replaced.
        drain: What runs the answers of this event loop.
        limit_seconds: How long running answers may take to finish.
    """
    shutdown = engine_client.shutdown

    def shut_down_idle(timeout: float | None = None) -> None:
        # Whatever answers were given: an idle engine needs a moment to let go of what it holds.
        shutdown(timeout=None if timeout is None else IDLE_ENGINE_SECONDS)

    engine_client.shutdown = shut_down_idle
    call_before_shutdown(
        engine_client,
        partial(drain.finish, limit_seconds),
        timeout_seconds=limit_seconds + ENDING_SECONDS,
    )


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
                logger.exception("the engine stops early: the last answers and records may be lost")
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
