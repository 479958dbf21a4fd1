"""Times the engine's steps, as one more logger of its statistics.

The logger is put into the list that the engine already has. vLLM's entry point for loggers would
switch its statistics on where `--disable-log-stats` has switched them off, and with them off there
is no list: then nothing is timed. A data-parallel engine that changes its size makes a new list
without this logger.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from vllm.v1.metrics.loggers import AggregateStatLoggerBase

from dpace_serve.acceptance.decode_step import DecodeStep, EngineStep, StepClock

if TYPE_CHECKING:
    from vllm.v1.metrics.loggers import StatLoggerManager
    from vllm.v1.metrics.stats import IterationStats, MultiModalCacheStats, SchedulerStats


class StepTimer(AggregateStatLoggerBase):
    """Passes on each step that could be timed, of all engines of this server."""

    def __init__(
        self, observe: Callable[[DecodeStep], None], on_lost: Callable[[Exception], None]
    ) -> None:
        """Start before the first step.

        Args:
            observe: Takes a timed step.
            on_lost: Called for a step that our own code failed at.
        """
        self._observe = observe
        self._on_lost = on_lost
        self._clocks: defaultdict[int, StepClock] = defaultdict(StepClock)

    def record(
        self,
        scheduler_stats: "SchedulerStats | None",
        iteration_stats: "IterationStats | None",
        mm_cache_stats: "MultiModalCacheStats | None" = None,  # noqa: ARG002  (the engine's signature)
        engine_idx: int = 0,
    ) -> None:
        """Look at one step; whatever goes wrong is counted and never reaches the engine."""
        if scheduler_stats is None:
            return
        try:
            step = self._clocks[engine_idx].time(_engine_step(scheduler_stats, iteration_stats))
            if step is not None:
                self._observe(step)
        except Exception as error:  # noqa: BLE001  (it would end every request of the engine)
            self._on_lost(error)

    def log_engine_initialized(self) -> None:
        """Say nothing: vLLM's own loggers do."""


def install(manager: "StatLoggerManager", timer: StepTimer) -> None:
    """Let a timer see every step of an engine."""
    manager.stat_loggers.append(timer)


def _engine_step(
    scheduler_stats: "SchedulerStats", iteration_stats: "IterationStats | None"
) -> EngineStep:
    num_running = scheduler_stats.num_running_reqs
    if iteration_stats is None:  # a step without tokens
        return EngineStep((), 0, 0, 0, num_running)
    return EngineStep(
        gaps=iteration_stats.inter_token_latencies_iter,
        num_first=len(iteration_stats.time_to_first_tokens_iter),
        num_tokens=iteration_stats.num_generation_tokens,
        num_finished=len(iteration_stats.finished_requests),
        num_running=num_running,
    )
