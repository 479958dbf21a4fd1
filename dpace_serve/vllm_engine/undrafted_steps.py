"""Keeps steps that were never drafted out of the acceptance, and takes drafts from no other.

vLLM sends drafts that nobody made to verification in two places, and they count as rejected:

- Where the longest sequence of a batch leaves the drafter no room for a block, the runner skips the
  drafter for the whole batch and hands out zeros; with the drafts go the context keys and values of
  every token of that step, for good. Here the runner always calls the proposer, which decides for
  each request (`draft_room`), and a request without room reaches the scheduler without drafts.
- A request that enters with one token left to compute is padded with as many tokens as the running
  ones verify, for the sake of a uniform batch: a prompt of one token, or an external cache that
  holds all of the prompt but its last token. Here it enters as it is; with captured graphs that one
  step runs as a mixed batch does.

An asynchronous scheduler plans the next step's drafts before the runner has decided. It knows what
the runner decides by, the length of each sequence with all drafts taken as accepted, so it decides
the same way: then no drafts are planned. Where its own bound is larger, a draft goes unused.
"""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING

from dpace_serve.vllm_engine.draft_room import rows_with_room

if TYPE_CHECKING:
    from vllm.v1.attention.backend import CommonAttentionMetadata
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.outputs import DraftTokenIds
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

InputFits = Callable[["GPUModelRunner", "CommonAttentionMetadata | None"], bool]
TakeDrafts = Callable[["GPUModelRunner"], "DraftTokenIds | None"]
UpdateAfterSchedule = Callable[["Scheduler", "SchedulerOutput"], None]
PlanDrafts = Callable[["AsyncScheduler", "SchedulerOutput"], None]

_MARK = "sends_no_undrafted_steps"


def install() -> None:
    """Wrap the runner and the schedulers; installing again changes nothing."""
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    for owner, name, wrap in (
        (GPUModelRunner, "_input_fits_in_drafter", _always_fitting),
        (GPUModelRunner, "take_draft_token_ids", _leaving_out),
        (Scheduler, "_update_after_schedule", _without_padding),
        (AsyncScheduler, "_update_after_schedule", _planning_none),
    ):
        method = getattr(owner, name)
        if not hasattr(method, _MARK):
            wrapped = wraps(method)(wrap(method))
            setattr(wrapped, _MARK, True)
            setattr(owner, name, wrapped)


def _always_fitting(input_fits: InputFits) -> InputFits:
    def input_fits_in_drafter(
        runner: "GPUModelRunner", common_attn_metadata: "CommonAttentionMetadata | None"
    ) -> bool:
        if common_attn_metadata is not None and runner.speculative_config.use_dflash():
            return True
        return input_fits(runner, common_attn_metadata)

    return input_fits_in_drafter


def _leaving_out(take: TakeDrafts) -> TakeDrafts:
    def take_draft_token_ids(runner: "GPUModelRunner") -> "DraftTokenIds | None":
        drafts = take(runner)
        if drafts is None or not runner.speculative_config.use_dflash():
            return drafts
        without_room = runner.drafter.without_room
        drafts.draft_token_ids = [
            [] if name in without_room else token_ids
            for name, token_ids in zip(drafts.req_ids, drafts.draft_token_ids, strict=True)
        ]
        return drafts

    return take_draft_token_ids


def _without_padding(update: UpdateAfterSchedule) -> UpdateAfterSchedule:
    def update_after_schedule(scheduler: "Scheduler", scheduler_output: "SchedulerOutput") -> None:
        speculation = scheduler.vllm_config.speculative_config
        if speculation is not None and speculation.use_dflash():
            _take_padding_off(scheduler_output)
        update(scheduler, scheduler_output)

    return update_after_schedule


def _take_padding_off(scheduler_output: "SchedulerOutput") -> None:
    # Nothing was drafted for a request that enters, so whatever it is to verify is padding.
    entering = [request.req_id for request in scheduler_output.scheduled_new_reqs]
    entering += scheduler_output.scheduled_cached_reqs.resumed_req_ids
    for name in entering:
        padding = scheduler_output.scheduled_spec_decode_tokens.pop(name, ())
        scheduler_output.num_scheduled_tokens[name] -= len(padding)
        scheduler_output.total_num_scheduled_tokens -= len(padding)


def _planning_none(plan: PlanDrafts) -> PlanDrafts:
    def update_after_schedule(
        scheduler: "AsyncScheduler", scheduler_output: "SchedulerOutput"
    ) -> None:
        plan(scheduler, scheduler_output)
        speculation = scheduler.vllm_config.speculative_config
        if speculation is None or not speculation.use_dflash():
            return
        requests = [scheduler.requests[name] for name in scheduler_output.num_scheduled_tokens]
        lengths = [request.num_computed_tokens for request in requests]
        rows = set(rows_with_room(lengths, speculation, scheduler.max_model_len))
        for row, request in enumerate(requests):
            if row not in rows:
                request.spec_token_ids = []

    return update_after_schedule
