"""The record of an ended answer, from what SGLang says of its steps."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpace_serve.acceptance.exclusion import ExclusionReason
from dpace_serve.acceptance.last_step import settle_last_step
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.live.assignment import Binding

ABORTED = "abort"
"""Finish reason of an answer that nobody waited for."""


@dataclass(frozen=True, slots=True)
class BoundRequest:
    """What is known of a request while it runs.

    Attributes:
        request_id: The engine's name of it, as records have it.
        serving: Its drafter.
        workload: Workload label.
    """

    request_id: str
    serving: Binding
    workload: str


@dataclass(frozen=True, slots=True)
class ServedSteps:
    """What the scheduler said of an ended request.

    Attributes:
        accepted: Accepted draft tokens of each step, in order, before any cut.
        revisions: Revision of the drafter that drafted, said once.
    """

    accepted: Sequence[int]
    revisions: Sequence[str]


def served_record(
    request: BoundRequest, meta_info: Mapping[str, Any], steps: ServedSteps, num_draft_tokens: int
) -> RequestAcceptance:
    """The record of a request that ended by itself.

    Args:
        request: The request.
        meta_info: SGLang's own account of it, with the histogram of its steps.
        steps: Ours.
        num_draft_tokens: Drafted tokens of each step.

    Raises:
        ValueError: If the two accounts contradict each other, or another drafter drafted.
    """
    finish_reason = str(meta_info["finish_reason"]["type"])
    if finish_reason == ABORTED:
        return excluded_record(request, "aborted", finish_reason)
    _require_agreement(steps.accepted, meta_info, num_draft_tokens)
    if not steps.accepted:
        return excluded_record(request, "no_step", finish_reason)
    if list(steps.revisions) != [request.serving.drafter.revision]:
        raise ValueError(
            f"the request was bound to revision {request.serving.drafter.revision}, but the engine "
            f"drafted with {list(steps.revisions)}"
        )
    settled = settle_last_step(
        steps.accepted,
        [num_draft_tokens] * len(steps.accepted),
        _emitted_by_last_step(steps.accepted, meta_info),
    )
    return RequestAcceptance(
        request_id=request.request_id,
        drafter=request.serving.drafter.name,
        revision=request.serving.drafter.revision,
        arm=request.serving.arm,
        workload=request.workload,
        per_step_accepted=settled.per_step_accepted,
        per_step_drafted=settled.per_step_drafted,
        emitted_tokens=settled.emitted_tokens,
        unsettled_drafted=settled.unsettled_drafted,
        unsettled_accepted=settled.unsettled_accepted,
        finish_reason=finish_reason,
    )


def excluded_record(
    request: BoundRequest, reason: ExclusionReason, finish_reason: str
) -> RequestAcceptance:
    """The record of a request that the statistics leave out."""
    return RequestAcceptance.from_exclusion(
        reason,
        request_id=request.request_id,
        drafter=request.serving.drafter.name,
        revision=request.serving.drafter.revision,
        arm=request.serving.arm,
        workload=request.workload,
        finish_reason=finish_reason,
    )


def _require_agreement(
    accepted: Sequence[int], meta_info: Mapping[str, Any], num_draft_tokens: int
) -> None:
    ours = Counter(accepted)
    histogram = meta_info.get("spec_correct_drafts_histogram", ())
    theirs = Counter({count: steps for count, steps in enumerate(histogram) if steps})
    drafted = meta_info.get("spec_num_proposed_drafts", 0)
    if ours != theirs or drafted != num_draft_tokens * len(accepted):
        raise ValueError(
            f"SGLang counts steps {dict(theirs)} with {drafted} drafted, the steps themselves are "
            f"{list(accepted)} of {num_draft_tokens}"
        )


def _emitted_by_last_step(accepted: Sequence[int], meta_info: Mapping[str, Any]) -> int:
    # A prompt's own forward emits a token, and once more after each time a full cache took the
    # request out of its batch.
    by_prompts: int = 1 + meta_info["num_retractions"]
    before: int = sum(count + 1 for count in accepted[:-1])
    emitted: int = meta_info["completion_tokens"] - by_prompts - before
    return emitted
