"""Keeps steps that were never drafted out of the acceptance.

Near the drafter's length limit the runner skips the drafter for the whole batch, and hands the
scheduler zeros in place of drafts: one long request makes every other one verify token 0 as if it
had been drafted. Here such a step reaches the scheduler as a step without drafts.

An asynchronous scheduler plans the next step's drafts before the runner has decided. It knows what
the runner decides by, the longest sequence of the batch with all drafts taken as accepted, so it
decides the same way: then no drafts are planned. Where its own bound is larger, a draft goes
unused.

Known limit: a request that enters with one token left to compute is padded with drafts that nobody
made, for the sake of a uniform batch, and they count as rejected. Local prefix caching cannot bring
one: with DFlash the last block that matched is computed again. An external KV cache can.
"""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

CopyDrafts = Callable[["GPUModelRunner", "SchedulerOutput", bool], None]
UpdateAfterSchedule = Callable[["AsyncScheduler", "SchedulerOutput"], None]

_MARK = "sends_no_undrafted_steps"


def install() -> None:
    """Wrap the runner and the asynchronous scheduler; installing again changes nothing."""
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    copy = GPUModelRunner._copy_draft_token_ids_to_cpu  # noqa: SLF001  (no public seam)
    if not hasattr(copy, _MARK):
        GPUModelRunner._copy_draft_token_ids_to_cpu = _sending_none(copy)  # noqa: SLF001
    update = AsyncScheduler._update_after_schedule  # noqa: SLF001  (no public seam)
    if not hasattr(update, _MARK):
        AsyncScheduler._update_after_schedule = _planning_none(update)  # noqa: SLF001


def _sending_none(copy: CopyDrafts) -> CopyDrafts:
    @wraps(copy)
    def copy_drafts(
        runner: "GPUModelRunner", scheduler_output: "SchedulerOutput", zeros_only: bool = False
    ) -> None:
        is_ours = runner.speculative_config.use_dflash()
        if not (zeros_only and is_ours) or runner.use_async_scheduling:
            copy(runner, scheduler_output, zeros_only)
            return
        request_ids = runner.input_batch.req_ids.copy()
        runner._draft_token_ids = [[] for _ in request_ids]  # noqa: SLF001
        runner._draft_token_req_ids = request_ids  # noqa: SLF001

    setattr(copy_drafts, _MARK, True)
    return copy_drafts


def _planning_none(update: UpdateAfterSchedule) -> UpdateAfterSchedule:
    @wraps(update)
    def update_after_schedule(
        scheduler: "AsyncScheduler", scheduler_output: "SchedulerOutput"
    ) -> None:
        update(scheduler, scheduler_output)
        speculation = scheduler.vllm_config.speculative_config
        if speculation is None or not speculation.use_dflash():
            return
        requests = [scheduler.requests[name] for name in scheduler_output.num_scheduled_tokens]
        longest = max((request.num_computed_tokens for request in requests), default=0)
        limit = speculation.draft_model_config.max_model_len or scheduler.max_model_len
        # The drafter reads the bonus token beside the positions that it drafts.
        if longest + scheduler.num_spec_tokens + 1 > limit:
            for request in requests:
                request.spec_token_ids = []

    setattr(update_after_schedule, _MARK, True)
    return update_after_schedule
