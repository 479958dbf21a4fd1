"""Lets a running engine's steps be timed and its spans carry acceptance, where it has them."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from dpace_serve.metrics.exporter import AcceptanceMetrics
from dpace_serve.metrics.labels import ExportStage
from dpace_serve.vllm_engine.arrivals import Arrivals

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient

logger = logging.getLogger(__name__)


def observe_steps(engine_client: "EngineClient", metrics: AcceptanceMetrics) -> None:
    """Count the engine's timed steps, if it keeps statistics."""
    manager = getattr(engine_client, "logger_manager", None)
    if manager is None:
        logger.warning("steps are not timed: the engine keeps no statistics (disable_log_stats).")
        return
    from dpace_serve.vllm_engine import step_clock

    timer = step_clock.StepTimer(metrics.observe_step, _counted(metrics, "step"))
    step_clock.install(manager, timer)


def extend_spans(
    engine_client: "EngineClient", arrivals: Arrivals, metrics: AcceptanceMetrics
) -> None:
    """Put acceptance on the engine's spans, if it makes any."""
    output_processor = getattr(engine_client, "output_processor", None)
    if output_processor is None or not output_processor.tracing_enabled:
        return
    from dpace_serve.vllm_engine import tracing

    tracing.install(output_processor, arrivals, _counted(metrics, "trace"))


def _counted(metrics: AcceptanceMetrics, stage: ExportStage) -> Callable[[Exception], None]:
    has_failed = False

    def count(error: Exception) -> None:
        nonlocal has_failed
        metrics.export_error(stage)
        if not has_failed:
            has_failed = True
            logger.error(
                "stage %s of the statistics failed (%s); more such errors are only counted, in "
                "dpace_export_errors_total",
                stage,
                error,
                exc_info=error,
            )

    return count
