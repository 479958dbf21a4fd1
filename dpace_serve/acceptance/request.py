"""Acceptance of one finished request, and what of its last step is counted.

Only positions settled by emitted tokens are counted. The engine verifies a whole block before it
looks for the end of the answer (an end token or the token limit), so the last step may have
accepted tokens that nobody receives. Such a step is cut to what it emitted; the positions past
the end are neither accepted nor drafted but *unsettled*, and kept, so that sums close exactly:

    emitted_tokens    = sum(accepted) + steps - (1 if the last step was cut else 0)
    engine's drafted  = sum(drafted)  + unsettled_drafted
    engine's accepted = sum(accepted) + unsettled_accepted
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dpace_serve.acceptance.counts import AcceptanceCounts, require_steps


@dataclass(frozen=True, slots=True)
class SettledSteps:
    """Verification steps of an answer, the last one cut to what it emitted.

    Attributes:
        per_step_accepted: Accepted draft tokens of each step.
        per_step_drafted: Drafted tokens of each step, at least one.
        unsettled_drafted: Drafted positions past the end of the answer.
        unsettled_accepted: Those of them that the engine had accepted.
        is_cut: The answer ended inside the accepted tokens of the last step, so that step
            emitted no bonus token.
    """

    per_step_accepted: tuple[int, ...]
    per_step_drafted: tuple[int, ...]
    unsettled_drafted: int
    unsettled_accepted: int
    is_cut: bool

    @property
    def emitted_tokens(self) -> int:
        """Tokens that these steps put into the answer."""
        return sum(self.per_step_accepted) + len(self.per_step_accepted) - int(self.is_cut)


def settle_last_step(
    per_step_accepted: Sequence[int],
    per_step_drafted: Sequence[int],
    emitted_by_last_step: int,
) -> SettledSteps:
    """Steps as the engine counted them, cut to the end of the answer.

    A last step that emitted its bonus token is kept whole: its positions after the first rejected
    one were drafted and not accepted, as in any other step. Steps that drafted nothing (0 of 0, as
    when a grammar forbids the whole draft) verify nothing and are left out.

    Args:
        per_step_accepted: Accepted draft tokens of each step, before any cut.
        per_step_drafted: Drafted tokens of each step.
        emitted_by_last_step: Tokens of the last listed step that are in the answer.

    Raises:
        ValueError: If no step is given, the lists differ in length, a step accepted more than it
            drafted, or the last one cannot have emitted that many tokens.
    """
    if not per_step_accepted or len(per_step_accepted) != len(per_step_drafted):
        raise ValueError(
            "settling needs at least 1 step, accepted and drafted of each, got "
            f"{len(per_step_accepted)} and {len(per_step_drafted)}. Exclude answers without one."
        )
    last_accepted, last_drafted = per_step_accepted[-1], per_step_drafted[-1]
    if not 1 <= emitted_by_last_step <= last_accepted + 1:
        raise ValueError(
            f"a step that accepted {last_accepted} emits 1 to {last_accepted + 1} tokens, got "
            f"{emitted_by_last_step}. Count the tokens of the last verification step only."
        )
    is_cut = emitted_by_last_step <= last_accepted
    accepted = [*per_step_accepted[:-1], emitted_by_last_step if is_cut else last_accepted]
    drafted = [*per_step_drafted[:-1], emitted_by_last_step if is_cut else last_drafted]
    verified = [pair for pair in zip(accepted, drafted, strict=True) if pair != (0, 0)]
    settled = SettledSteps(
        per_step_accepted=tuple(pair[0] for pair in verified),
        per_step_drafted=tuple(pair[1] for pair in verified),
        unsettled_drafted=last_drafted - drafted[-1],
        unsettled_accepted=last_accepted - accepted[-1],
        is_cut=is_cut,
    )
    require_steps(settled.per_step_accepted, settled.per_step_drafted)
    _require_unsettled(settled.unsettled_drafted, settled.unsettled_accepted)
    return settled


@dataclass(frozen=True, slots=True)
class RequestAcceptance:
    """What one finished request says about its drafter.

    Attributes:
        request_id: The engine's name of the request.
        drafter: Name of the drafter that drafted for it.
        revision: Revision of that drafter's checkpoint.
        arm: Role of the drafter: champion, challenger, shadow.
        workload: Workload label, from the configured set.
        per_step_accepted: Accepted draft tokens of each verification step.
        per_step_drafted: Drafted tokens of each verification step, at least one.
        emitted_tokens: Tokens of the answer that verification steps emitted; the prefill's token
            and those of steps without drafts are not among them.
        unsettled_drafted: Drafted positions past the end of the answer, never compared.
        unsettled_accepted: Those of them that the engine had accepted.
        finish_reason: Why the answer ended, in the engine's words.
    """

    request_id: str
    drafter: str
    revision: str
    arm: str
    workload: str
    per_step_accepted: tuple[int, ...]
    per_step_drafted: tuple[int, ...]
    emitted_tokens: int
    unsettled_drafted: int
    unsettled_accepted: int
    finish_reason: str

    def __post_init__(self) -> None:
        """Refuse a record whose sums do not close."""
        require_steps(self.per_step_accepted, self.per_step_drafted)
        _require_unsettled(self.unsettled_drafted, self.unsettled_accepted)
        whole = self.accepted + self.steps
        has_cut_end = self.steps > 0 and self.per_step_accepted[-1] == self.per_step_drafted[-1]
        is_cut = has_cut_end and self.emitted_tokens == whole - 1
        if not is_cut and self.emitted_tokens != whole:
            raise ValueError(
                f"{self.steps} steps that accepted {self.accepted} emit {whole} tokens, one less "
                f"if the last is cut, got {self.emitted_tokens}. Cut with settle_last_step."
            )
        if self.unsettled_drafted and not is_cut:
            raise ValueError(
                f"only a cut last step leaves positions unsettled, got {self.unsettled_drafted} "
                "without a cut. Cut with settle_last_step."
            )

    @property
    def steps(self) -> int:
        """Verification steps."""
        return len(self.per_step_accepted)

    @property
    def accepted(self) -> int:
        """Accepted draft tokens."""
        return sum(self.per_step_accepted)

    @property
    def tau(self) -> float:
        """Tokens per verification step, bonus included; nan without a step."""
        return 1 + self.accepted / self.steps if self.steps else math.nan

    def counts(self, num_draft_tokens: int) -> AcceptanceCounts:
        """Its counts by draft position.

        Raises:
            ValueError: If a step drafted more than `num_draft_tokens`.
        """
        return AcceptanceCounts.from_steps(
            self.per_step_accepted, self.per_step_drafted, num_draft_tokens, self.emitted_tokens
        )

    def to_dict(self) -> dict[str, Any]:
        """The record for JSON, with its totals; tau is null without a step."""
        return {
            "request_id": self.request_id,
            "drafter": self.drafter,
            "revision": self.revision,
            "arm": self.arm,
            "workload": self.workload,
            "finish_reason": self.finish_reason,
            "steps": self.steps,
            "accepted": self.accepted,
            "tau": self.tau if self.steps else None,
            "emitted_tokens": self.emitted_tokens,
            "per_step_accepted": list(self.per_step_accepted),
            "per_step_drafted": list(self.per_step_drafted),
            "unsettled_drafted": self.unsettled_drafted,
            "unsettled_accepted": self.unsettled_accepted,
        }


def _require_unsettled(drafted: int, accepted: int) -> None:
    if not 0 <= accepted <= drafted:
        raise ValueError(
            "unsettled positions need 0 <= accepted <= drafted, got "
            f"{accepted} and {drafted}. Cut with settle_last_step."
        )
