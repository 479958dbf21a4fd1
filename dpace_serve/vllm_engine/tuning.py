"""An engine set up as `dpace serve` sets it up, whose draft length changes from run to run.

This file imports neither vllm nor torch. The other side is `tuning_process`.
"""

from collections.abc import Sequence

from dpace_serve.serve_config import ServeConfig
from dpace_serve.vllm_engine import tuning_process
from dpace_serve.vllm_engine.engine_process import EngineProcess
from dpace_serve.vllm_engine.tuning_calls import (
    EngineFacts,
    PrepareCall,
    TrafficCall,
    TrafficRun,
    TuningPrompt,
)


class TuningEngine(EngineProcess):
    """A target and its drafter in vLLM while the context is open."""

    def __init__(self, config: ServeConfig) -> None:
        super().__init__(tuning_process.run, config)

    def prepare(self, prompts: Sequence[TuningPrompt], *, max_new_tokens: int) -> EngineFacts:
        """Take the prompts that later calls name by their places here.

        Args:
            prompts: Texts, and chats for the target's template.
            max_new_tokens: Longest answer.

        Raises:
            EngineError: If one does not suit the template, or leaves no room for an answer.
        """
        self._send(PrepareCall(tuple(prompts), max_new_tokens))
        return self._result(EngineFacts)

    def answer(self, call: TrafficCall) -> TrafficRun:
        """Answer prompts, always as many at a time as the call says.

        Raises:
            EngineError: If the engine fails.
        """
        self._send(call)
        return self._result(TrafficRun)
