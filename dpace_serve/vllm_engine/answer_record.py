"""The record of a finished answer, from what the engine says of its steps."""

from typing import TYPE_CHECKING

from dpace_serve.acceptance.exclusion import ExclusionReason
from dpace_serve.acceptance.last_step import settle_last_step
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.acceptance.shadow import ShadowDraft, settle_drafts
from dpace_serve.live.assignment import Binding
from dpace_serve.vllm_engine.bound_request import BoundRequest
from dpace_serve.vllm_engine.settlement import join_cut_step

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput, RequestOutput

    from dpace_serve.vllm_engine.draft_log import TakenDrafts

ABORTED = "abort"
"""Finish reason of an answer that nobody waited for."""
UNKNOWN = "unknown"
"""Finish reason where the engine says none."""


def join_cut_steps(output: "RequestOutput") -> int:
    """Undo the scheduler's split in all answers; tokens of the last one's last step."""
    emitted_by_last_step = 0
    for answer in output.outputs:
        counts = answer.spec_decode_metrics
        if counts is not None and counts.per_step_accepted:
            emitted_by_last_step = join_cut_step(counts)
    return emitted_by_last_step


def finish_reason_of(output: "RequestOutput") -> str:
    """Why the first answer of a finished request ended, whatever else is wrong with it."""
    reasons = [getattr(answer, "finish_reason", None) for answer in output.outputs]
    return next((reason for reason in reasons if reason), UNKNOWN)


def served_record(
    request: BoundRequest,
    output: "RequestOutput",
    num_answers: int,
    emitted_by_last_step: int,
) -> RequestAcceptance:
    """The record of the drafter that served a finished request.

    Args:
        request: The request.
        output: The engine's last output of it, steps joined.
        num_answers: How many answers it asked for.
        emitted_by_last_step: What `join_cut_steps` found.

    Raises:
        ValueError: If the engine's counts contradict each other.
    """
    answer, serving = output.outputs[0], request.assignment.serving
    reason = _exclusion_of(output, num_answers)
    if reason is not None:
        return excluded_record(request, serving, reason, answer.finish_reason)
    counts = answer.spec_decode_metrics
    if not sum(counts.histogram):
        return excluded_record(request, serving, "no_step", answer.finish_reason)
    settled = settle_last_step(
        counts.per_step_accepted, counts.per_step_drafted, emitted_by_last_step
    )
    if not settled.per_step_drafted:
        return excluded_record(request, serving, "no_step", answer.finish_reason)
    return RequestAcceptance(
        request_id=request.request_id,
        drafter=serving.drafter.name,
        revision=serving.drafter.revision,
        arm=serving.arm,
        workload=request.workload,
        per_step_accepted=settled.per_step_accepted,
        per_step_drafted=settled.per_step_drafted,
        emitted_tokens=settled.emitted_tokens,
        unsettled_drafted=settled.unsettled_drafted,
        unsettled_accepted=settled.unsettled_accepted,
        finish_reason=answer.finish_reason,
    )


def shadow_record(
    request: BoundRequest, shadow: Binding, drafts: "TakenDrafts", served: RequestAcceptance
) -> RequestAcceptance:
    """The record of a challenger that shadowed a finished request, step by step as it was served.

    Args:
        request: The request, its prompt and its whole answer kept.
        shadow: The challenger.
        drafts: What was drafted for the request and came to verification, by slot.
        served: The counted record of the drafter that served it.
    """
    finish_reason = served.finish_reason
    if request.prompt_token_ids is None or shadow.slot not in drafts:
        return excluded_record(request, shadow, "no_shadow", finish_reason)
    first, end = len(request.prompt_token_ids), len(request.token_ids)
    # An asynchronous scheduler may run a step past the end of an answer.
    in_answer = [
        ShadowDraft(position - first, tuple(tokens))
        for position, tokens in drafts[shadow.slot]
        if 0 <= position - first < end - 1
    ]
    if len(in_answer) != served.steps:
        return excluded_record(request, shadow, "no_shadow", finish_reason)
    return RequestAcceptance.from_shadow(
        settle_drafts(request.token_ids, in_answer),
        request_id=request.request_id,
        drafter=shadow.drafter.name,
        revision=shadow.drafter.revision,
        workload=request.workload,
        finish_reason=finish_reason,
    )


def excluded_record(
    request: BoundRequest, binding: Binding, reason: ExclusionReason, finish_reason: str
) -> RequestAcceptance:
    """The record of a drafter whose statistics leave a request out."""
    return RequestAcceptance.from_exclusion(
        reason,
        request_id=request.request_id,
        drafter=binding.drafter.name,
        revision=binding.drafter.revision,
        arm=binding.arm,
        workload=request.workload,
        finish_reason=finish_reason,
    )


def _exclusion_of(output: "RequestOutput", num_answers: int) -> ExclusionReason | None:
    """Why a finished request cannot be counted, before a look at its steps."""
    if len(output.outputs) != 1 or num_answers != 1:
        return "several_outputs"
    answer = output.outputs[0]
    if answer.finish_reason in (ABORTED, "error"):
        return "aborted"
    if _has_stop_string(answer):
        return "stop_string"
    counts = answer.spec_decode_metrics
    if counts is None:
        return "no_record"
    if sum(counts.histogram) and not counts.per_step_accepted:
        return "no_record"  # the engine was told to keep a summary only
    return None


def _has_stop_string(answer: "CompletionOutput") -> bool:
    # Found in the API process: the engine core never said where its own counts end.
    return answer.finish_reason == "stop" and isinstance(answer.stop_reason, str)
