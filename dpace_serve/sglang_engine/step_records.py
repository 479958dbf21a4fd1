"""Each verification step of a request, from the scheduler's process to the API process.

SGLang tells how many steps of a request accepted how many drafts, but not in which order, and a
step that an answer ends in cannot be told from the others. The order is noted where SGLang fills
that histogram, and travels with the request's outputs, which clients never see it in.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpace_serve.drafter import checkpoint
from dpace_serve.drafter.target import find_target_folder
from dpace_serve.errors import CheckpointError

if TYPE_CHECKING:
    from sglang.srt.managers.io_struct import GetInternalStateReq, GetInternalStateReqOutput
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.managers.scheduler import Scheduler
    from sglang.srt.managers.scheduler_components.output_streamer import SchedulerOutputStreamer
    from sglang.srt.managers.tokenizer_manager import ReqState, TokenizerManager
    from sglang.srt.speculative.base_spec_worker import BaseSpecWorker

STEPS = "dpace_steps"
"""Accepted draft tokens of each step, the bonus token not among them."""
REVISION = "dpace_revision"
"""Revision of the drafter that drafted for a request that has ended."""
REPORT = "dpace"
"""What a scheduler says of us in SGLang's own reports."""


def report_start(original: Callable[..., dict[str, Any]], scheduler: "Scheduler") -> dict[str, Any]:
    """What a scheduler says once it is ready, and that it is hooked; the launcher checks it."""
    from dpace_serve.sglang_engine.hooking import not_applied
    from dpace_serve.sglang_engine.hooks import all_hooks
    from dpace_serve.sglang_engine.model_registry import not_registered

    info = original(scheduler)
    scheduler.dpace_revision = _revision_at_start()
    missing = [*not_applied(all_hooks()), *not_registered()]
    return info | {REPORT: {"not_applied": missing, "revision": scheduler.dpace_revision}}


def report_state(
    original: "Callable[..., GetInternalStateReqOutput]",
    scheduler: "Scheduler",
    recv_req: "GetInternalStateReq",
) -> "GetInternalStateReqOutput":
    """SGLang's live state, with the drafter in use and all verified drafts since the start.

    The drafts are counted over whole batches where SGLang hands them to the speculation worker;
    with overlapping schedules steps of requests that have just ended are among them.
    """
    answer = original(scheduler, recv_req)
    verified = getattr(scheduler.draft_worker, "dpace_verified", Counter())
    answer.internal_state[REPORT] = {
        "revision": scheduler.dpace_revision,
        "verified_steps": [verified[count] for count in range(max(verified, default=-1) + 1)],
    }
    return answer


def count_verified(
    original: Callable[..., None],
    worker: "BaseSpecWorker",
    num_correct_drafts_per_req: Sequence[int],
    batch_size: int = 0,
) -> None:
    """Count the drafts that a verification accepted, by how many it accepted."""
    original(worker, num_correct_drafts_per_req, batch_size=batch_size)
    if not hasattr(worker, "dpace_verified"):
        worker.dpace_verified = Counter()
    worker.dpace_verified.update(num_correct_drafts_per_req)


def note_step(original: Callable[..., None], req: "Req", num_correct_drafts: int) -> None:
    """Note what a request's step accepted, after those before it."""
    original(req, num_correct_drafts)
    if not hasattr(req, STEPS):
        req.dpace_steps = []
    req.dpace_steps.append(num_correct_drafts)


def stream_steps(
    original: "Callable[..., type[SchedulerOutputStreamer]]", scheduler: "Scheduler"
) -> "type[SchedulerOutputStreamer]":
    """SGLang's class that sends outputs, made to send the steps since the last output too."""
    streamer = original(scheduler)

    class StepStreamer(streamer):  # type: ignore[misc, valid-type]  # known at run time
        """Adds the steps of each request to its outputs."""

        has_additional_customized_info = True

        def build_additional_customized_info(self, reqs: "Sequence[Req]") -> dict[str, list[Any]]:
            # A request sends its steps once: what is sent is taken out of its list.
            others: dict[str, list[Any]] = super().build_additional_customized_info(reqs)
            return others | {
                STEPS: [_taken(req) for req in reqs],
                REVISION: [[scheduler.dpace_revision] if req.finished() else [] for req in reqs],
            }

    return StepStreamer


def keep_from_client(
    original: Callable[..., None],
    manager: "TokenizerManager",
    meta_info: dict[str, Any],
    state: "ReqState",
    customized_info: dict[str, list[Any]],
    index: int,
    finish_reason: dict[str, Any] | None,
) -> None:
    """Gather what is ours with the request's state, and pass on the rest."""
    rest = dict(customized_info)
    for key in (STEPS, REVISION):
        if key in rest:
            kept = state.customized_info_accumulated.setdefault(key, [])
            kept.extend(rest.pop(key)[index])
    original(manager, meta_info, state, rest, index, finish_reason)


def _taken(req: "Req") -> list[int]:
    steps: list[int] = getattr(req, STEPS, [])
    req.dpace_steps = []
    return steps


def _revision_at_start() -> str | None:
    """Content hash of the drafter that the scheduler has loaded; none where nothing is drafted."""
    from sglang.srt.runtime_context import get_spec

    name = get_spec().speculative_draft_model_path
    if name is None:
        return None
    folder = find_target_folder(name)
    if folder is None:
        raise CheckpointError(f"{name}: the drafter has no local copy. Download it.")
    return checkpoint.revision(Path(folder))
