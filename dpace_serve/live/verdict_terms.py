"""What verdicts are made by: the configured rule, and how long steps of two drafters take."""

import time
from collections.abc import Callable, Mapping

from dpace_serve.acceptance.verdict import StepTime
from dpace_serve.acceptance.verdict_rule import VerdictRule
from dpace_serve.live.comparison import Terms
from dpace_serve.live.hosted import Rivals
from dpace_serve.serve_config import VerdictConfig


def verdict_terms(
    config: VerdictConfig,
    step_time: Callable[[Rivals, Mapping[int, int]], StepTime | None],
    num_steps: Callable[[], Mapping[int, int]],
    *,
    num_draft_tokens: int,
) -> Terms:
    """The terms of every comparison of a server.

    Args:
        config: What a challenger must show.
        step_time: How long steps of two drafters take.
        num_steps: Steps of the engine so far, by batch size; empty where they are not timed.
        num_draft_tokens: Draft positions.
    """
    rule = VerdictRule(
        minimum_lift=config.minimum_lift,
        maximum_loss=config.maximum_loss,
        confidence=config.confidence,
        planned_requests=config.planned_requests,
        minimum_requests=config.minimum_requests,
    )
    return Terms(
        rule,
        weights=config.workload_weights or None,
        num_draft_tokens=num_draft_tokens,
        step_time=step_time,
        num_steps=num_steps,
        clock=time.time,
    )
