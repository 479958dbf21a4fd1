"""Carries the end of an answer from the scheduler to the API process.

The scheduler counts a step's accepted tokens first and looks for the end of the answer after that,
so the counts of an answer's last step may run past its end. Only the scheduler knows how many
tokens that step emitted. We tell the API process by splitting the last entry of both per-step
lists in two: what was emitted, and the rest. An answer whose lists have one entry more than its
histogram has steps was cut; the sums of the lists stay the engine's own. Steps without drafts
never take part: they emit one token, and one token cannot be cut.
"""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.metrics.stats import RequestSpecDecodeMetrics
    from vllm.v1.request import Request

UpdateRequest = Callable[["Scheduler", "Request", list[int], bool], tuple[list[int], bool]]

_MARK = "settles_cut_answers"


def install() -> None:
    """Make the scheduler split the entry of a cut step; installing again changes nothing.

    `AsyncScheduler` overrides the method and calls this one.
    """
    from vllm.v1.core.sched.scheduler import Scheduler

    update = Scheduler._update_request_with_output  # noqa: SLF001  (no public seam sees the trim)
    if not hasattr(update, _MARK):
        Scheduler._update_request_with_output = _splitting(update)  # noqa: SLF001


def split_cut_step(
    metrics: "RequestSpecDecodeMetrics", *, num_generated: int, num_emitted: int
) -> None:
    """Split the last step in what it emitted and the rest, if the answer ended inside it.

    Args:
        metrics: The request's counts, the last step among them.
        num_generated: Tokens that the step generated: the accepted ones and the bonus token.
        num_emitted: How many of them are in the answer.
    """
    accepted = num_generated - 1
    # Other levels than "detailed" keep no lists.
    if num_emitted == num_generated or metrics.per_step_accepted[-1:] != [accepted]:
        return
    drafted = metrics.per_step_drafted[-1]
    metrics.per_step_accepted[-1:] = [num_emitted, accepted - num_emitted]
    metrics.per_step_drafted[-1:] = [num_emitted, drafted - num_emitted]


def join_cut_step(metrics: "RequestSpecDecodeMetrics") -> int:
    """Undo the split, and return how many tokens the last step emitted.

    Raises:
        ValueError: If the lists do not belong to the histogram.
    """
    num_steps, num_entries = sum(metrics.histogram), len(metrics.per_step_accepted)
    if not num_steps or num_entries - num_steps not in (0, 1):
        raise ValueError(f"{num_steps} steps cannot have {num_entries} entries.")
    if num_entries == num_steps:
        return int(metrics.per_step_accepted[-1]) + 1
    num_emitted = int(metrics.per_step_accepted[-2])
    metrics.per_step_accepted[-2:] = [sum(metrics.per_step_accepted[-2:])]
    metrics.per_step_drafted[-2:] = [sum(metrics.per_step_drafted[-2:])]
    return num_emitted


def _splitting(update: UpdateRequest) -> UpdateRequest:
    @wraps(update)
    def update_and_split(
        scheduler: "Scheduler",
        request: "Request",
        new_token_ids: list[int],
        is_stale: bool = False,
    ) -> tuple[list[int], bool]:
        num_generated = len(new_token_ids)  # the list is trimmed in place
        emitted, stopped = update(scheduler, request, new_token_ids, is_stale)
        if request.spec_decode_metrics is not None:
            split_cut_step(
                request.spec_decode_metrics, num_generated=num_generated, num_emitted=len(emitted)
            )
        return emitted, stopped

    setattr(update_and_split, _MARK, True)
    return update_and_split
