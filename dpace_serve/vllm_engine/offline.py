"""vLLM without a server: a target in a process of its own, whose memory is free when it ends.

This file imports neither vllm nor torch. The other side is `offline_process`.
"""

from collections.abc import Generator, Sequence
from pathlib import Path

from dpace_serve.vllm_engine import offline_process
from dpace_serve.vllm_engine.engine_process import EngineProcess
from dpace_serve.vllm_engine.offline_calls import (
    EngineSettings,
    ExportCall,
    FinishedAnswer,
    GenerateCall,
    GenerationRequest,
)


class OfflineEngine(EngineProcess):
    """A target in vLLM while the context is open.

    Args of its methods travel through a pipe; hidden states travel through files.
    """

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(offline_process.run, settings)

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
        self._send(GenerateCall(tuple(requests), temperature, end_ids))
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
        self._send(ExportCall(tuple(documents)))
        return self._result(list)
