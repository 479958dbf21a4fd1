"""An engine in a process of its own, whose memory is free when it ends: both ends of the pipe.

This file imports neither vllm nor torch.
"""

import multiprocessing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self, TypeVar

from dpace_serve.errors import DpaceError, EngineError

STOP_TIMEOUT_SECONDS = 60.0
_ResultT = TypeVar("_ResultT")
_EngineT = TypeVar("_EngineT")


@dataclass(frozen=True, slots=True)
class Failure:
    """One line for the user, instead of a result."""

    text: str


class _CallerLeftError(Exception):
    """The other end of the pipe is closed, so nobody waits for a result."""


class EngineProcess:
    """The caller's end: an engine that runs while the context is open."""

    def __init__(self, run: Callable[[Connection, Any], None], settings: object) -> None:
        """Prepare the process; nothing starts yet.

        Args:
            run: What the process runs, a function of a module.
            settings: What it gets beside its end of the pipe.
        """
        self._run = run
        self._settings = settings
        self._connection: Connection
        self._process: BaseProcess

    def __enter__(self) -> Self:
        """Start the process and wait until the engine is ready.

        Raises:
            EngineError: If vLLM is absent, of another version, or cannot load the models.
        """
        # A fork would inherit torch's threads, and on a GPU its context.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=self._run, args=(theirs, self._settings), name="dpace-offline-engine"
        )
        self._process.start()
        theirs.close()
        try:
            self._result(type(None))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the process, and with it all that the engine holds."""
        self._stop()

    def _send(self, call: object) -> None:
        self._connection.send(call)

    def _result(self, kind: type[_ResultT]) -> _ResultT:
        try:
            result = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(STOP_TIMEOUT_SECONDS)
            raise EngineError(
                f"vLLM's process ended by itself (exit code {self._process.exitcode}). "
                "Its own log above says why."
            ) from None
        if isinstance(result, Failure):
            raise EngineError(result.text)
        if not isinstance(result, kind):
            raise TypeError(f"expected {kind}, got {type(result)}")
        return result

    def _stop(self) -> None:
        # The other side reads the end of the pipe as the end of its work.
        self._connection.close()
        self._process.join(STOP_TIMEOUT_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


def answer_calls(
    connection: Connection,
    start: Callable[[], _EngineT],
    results: Callable[[_EngineT, Any], Iterable[object]],
) -> None:
    """The engine's end: answer calls until the other end of the pipe is closed.

    Args:
        connection: Carries None once the engine is ready, then the results of each call.
        start: Starts the engine.
        results: What a call is answered with, message by message.
    """
    try:
        engine = start()
        connection.send(None)
        while (call := _next_call(connection)) is not None:
            for result in results(engine, call):
                _answer(connection, result)
    except _CallerLeftError:
        return
    except DpaceError as error:
        connection.send(Failure(str(error)))
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        connection.send(Failure(f"vLLM stopped: {reason}. Its own log above says more."))
        raise


def _next_call(connection: Connection) -> object:
    try:
        return connection.recv()
    except (EOFError, ConnectionResetError):
        return None


def _answer(connection: Connection, result: object) -> None:
    try:
        connection.send(result)
    except (BrokenPipeError, ConnectionResetError):
        raise _CallerLeftError from None
