"""vLLM without a server: a target in a process of its own, whose memory is free when it ends.

This file imports neither vllm nor torch. The other side is `offline_process`.
"""

import multiprocessing
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from dpace_serve.errors import EngineError
from dpace_serve.vllm_engine import offline_process
from dpace_serve.vllm_engine.offline_calls import (
    EngineSettings,
    ExportCall,
    Failure,
    FinishedAnswer,
    GenerateCall,
    GenerationRequest,
)

STOP_TIMEOUT_SECONDS = 60.0
_ResultT = TypeVar("_ResultT")


class OfflineEngine:
    """A target in vLLM while the context is open.

    Args of its methods travel through a pipe; hidden states travel through files.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._connection: Connection
        self._process: BaseProcess

    def __enter__(self) -> "OfflineEngine":
        """Start the process and wait until the target is loaded.

        Raises:
            EngineError: If vLLM is absent, of another version, or cannot load the target.
        """
        # A fork would inherit torch's threads, and on a GPU its context.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=offline_process.run, args=(theirs, self._settings), name="dpace-offline-engine"
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

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        temperature: float,
        end_ids: frozenset[int],
    ) -> Generator[list[FinishedAnswer], None, None]:
        """Continue token prompts up to and including the end token.

        Args:
            requests: Prompts, each shorter than `max_model_len`.
            temperature: Sampling temperature over the whole distribution; 0 is greedy.
            end_ids: Tokens that end an answer.

        Yields:
            Answers as the engine finishes them, which goes on meanwhile; one without an end token
            reached its limit. Take all of them before the next call.

        Raises:
            EngineError: If the engine fails.
        """
        self._connection.send(GenerateCall(tuple(requests), temperature, end_ids))
        num_left = len(requests)
        while num_left:
            finished: list[FinishedAnswer] = self._result(list)
            num_left -= len(finished)
            yield finished

    def export_hidden_states(self, documents: Sequence[tuple[int, ...]]) -> list[Path]:
        """Run the target over token documents and export the layers of the settings.

        Args:
            documents: Token ids, each at most `max_model_len` - 2 of them.

        Returns:
            One safetensors file per document; `read_export` waits for it and reads it.

        Raises:
            EngineError: If the engine fails.
        """
        self._connection.send(ExportCall(tuple(documents)))
        return self._result(list)

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
