"""Tells a server that was stopped from one whose engine died."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient


class EngineWatch:
    """Remembers whether the engine was dead before anyone shut it down.

    A signal shuts a living engine down; after a death the server ends first, without an error.
    Once shut down, an engine counts as dead in either case.

    Attributes:
        has_died: Whether it was dead already when it was first told to stop.
    """

    def __init__(self) -> None:
        self.has_died = False
        self._is_stopping = False

    def watch(self, engine_client: "EngineClient") -> None:
        """Look at the engine whenever it is shut down."""
        shutdown = engine_client.shutdown

        def note_and_shut_down(timeout: float | None = None) -> None:
            if not self._is_stopping:
                self._is_stopping = True
                self.has_died = bool(engine_client.errored)
            shutdown(timeout=timeout)

        engine_client.shutdown = note_and_shut_down
