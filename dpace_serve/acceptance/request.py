"""Acceptance of one drafter for one request that has ended.

Every request leaves one record for the drafter that served it, counted or excluded, and one for
each challenger in its shadow, under the same request id. Sums of a counted record close:

    served: emitted_tokens = sum(accepted) + steps - (1 if the last step was cut else 0)
    shadow: emitted_tokens = 0, since it put nothing into the answer

What is past the end of an answer is unsettled, neither accepted nor drafted: see `last_step` for
the drafter that served, `shadow` for a challenger.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from dpace_serve.acceptance import json_row
from dpace_serve.acceptance.arm import ARMS, Arm
from dpace_serve.acceptance.counts import AcceptanceCounts, require_steps
from dpace_serve.acceptance.exclusion import EXCLUSION_REASONS, ExclusionReason
from dpace_serve.acceptance.last_step import require_unsettled
from dpace_serve.acceptance.shadow import ShadowSteps


@dataclass(frozen=True, slots=True)
class RequestAcceptance:
    """What one request that has ended says about one drafter.

    Attributes:
        request_id: The engine's name of the request.
        drafter: Name of the drafter that drafted for it.
        revision: Revision of that drafter's checkpoint.
        arm: What the drafter did for it; `shadow` was only compared.
        workload: Workload label, from the configured set.
        per_step_accepted: Accepted draft tokens of each verification step.
        per_step_drafted: Drafted tokens of each verification step, at least one.
        emitted_tokens: Tokens of the answer that verification steps emitted; the prefill's token
            and those of steps without drafts are not among them. A shadow emits 0.
        unsettled_drafted: Drafted positions past the end of the answer, never compared.
        unsettled_accepted: Those of them that the engine had accepted; 0 for a shadow.
        finish_reason: Why the answer ended, in the engine's words.
        excluded: Why it is not in the statistics, then without steps and tokens; none if it is.
    """

    request_id: str
    drafter: str
    revision: str
    arm: Arm
    workload: str
    per_step_accepted: tuple[int, ...]
    per_step_drafted: tuple[int, ...]
    emitted_tokens: int
    unsettled_drafted: int
    unsettled_accepted: int
    finish_reason: str
    excluded: ExclusionReason | None = None

    def __post_init__(self) -> None:
        """Refuse a record whose sums do not close."""
        if self.arm not in ARMS:
            raise ValueError(f"arm must be one of {', '.join(ARMS)}, got {self.arm}.")
        require_steps(self.per_step_accepted, self.per_step_drafted)
        require_unsettled(self.unsettled_drafted, self.unsettled_accepted)
        if self.excluded is not None:
            _require_nothing_counted(self, self.excluded)
        elif self.arm == "shadow":
            _require_nothing_emitted(self)
        else:
            _require_closed_sums(self)

    @classmethod
    def from_shadow(
        cls,
        shadow: ShadowSteps,
        *,
        request_id: str,
        drafter: str,
        revision: str,
        workload: str,
        finish_reason: str,
    ) -> Self:
        """Record of a challenger in the shadow of a request; excluded if nothing was compared.

        Args:
            shadow: Its drafts, compared with the answer.
            request_id: The request that another drafter served.
            drafter: Name of the challenger.
            revision: Revision of its checkpoint.
            workload: Workload label of the request.
            finish_reason: Why the answer ended.
        """
        is_compared = bool(shadow.per_step_drafted)
        return cls(
            request_id=request_id,
            drafter=drafter,
            revision=revision,
            arm="shadow",
            workload=workload,
            per_step_accepted=shadow.per_step_accepted,
            per_step_drafted=shadow.per_step_drafted,
            emitted_tokens=0,
            unsettled_drafted=shadow.unsettled_drafted if is_compared else 0,
            unsettled_accepted=0,
            finish_reason=finish_reason,
            excluded=None if is_compared else "no_step",
        )

    @classmethod
    def from_exclusion(
        cls,
        excluded: ExclusionReason,
        *,
        request_id: str,
        drafter: str,
        revision: str,
        arm: Arm,
        workload: str,
        finish_reason: str,
    ) -> Self:
        """Record of a request that the statistics leave out, for the reason given.

        Args:
            excluded: Why.
            request_id: The engine's name of the request.
            drafter: Name of the drafter that drafted for it, or was to.
            revision: Revision of that drafter's checkpoint.
            arm: What the drafter did for it.
            workload: Workload label of the request.
            finish_reason: Why the answer ended; `abort` where the client left.

        Raises:
            ValueError: If there is no such reason, or not in this arm.
        """
        return cls(
            request_id=request_id,
            drafter=drafter,
            revision=revision,
            arm=arm,
            workload=workload,
            per_step_accepted=(),
            per_step_drafted=(),
            emitted_tokens=0,
            unsettled_drafted=0,
            unsettled_accepted=0,
            finish_reason=finish_reason,
            excluded=excluded,
        )

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """The record that `to_dict` wrote.

        Raises:
            ValueError: If a key is missing, unknown or of another type, the sums do not close, or
                the totals are not those of the steps.
        """
        json_row.require_keys(row, _KEYS)
        is_counted = row["excluded"] is None
        record = cls(
            request_id=json_row.text(row, "request_id"),
            drafter=json_row.text(row, "drafter"),
            revision=json_row.text(row, "revision"),
            arm=json_row.choice(row, "arm", ARMS),
            workload=json_row.text(row, "workload"),
            per_step_accepted=json_row.integers(row, "per_step_accepted"),
            per_step_drafted=json_row.integers(row, "per_step_drafted"),
            emitted_tokens=json_row.integer(row, "emitted_tokens"),
            unsettled_drafted=json_row.integer(row, "unsettled_drafted"),
            unsettled_accepted=json_row.integer(row, "unsettled_accepted"),
            finish_reason=json_row.text(row, "finish_reason"),
            excluded=None if is_counted else json_row.choice(row, "excluded", EXCLUSION_REASONS),
        )
        totals = record.to_dict()
        if any(row[key] != totals[key] for key in ("steps", "accepted", "tau")):
            raise ValueError(
                f"steps, accepted and tau must be those of the {record.steps} steps, got "
                f"{row['steps']}, {row['accepted']} and {row['tau']}. Correct the row."
            )
        return record

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
            "excluded": self.excluded,
            "steps": self.steps,
            "accepted": self.accepted,
            "tau": self.tau if self.steps else None,
            "emitted_tokens": self.emitted_tokens,
            "per_step_accepted": list(self.per_step_accepted),
            "per_step_drafted": list(self.per_step_drafted),
            "unsettled_drafted": self.unsettled_drafted,
            "unsettled_accepted": self.unsettled_accepted,
        }


_KEYS = (
    "request_id",
    "drafter",
    "revision",
    "arm",
    "workload",
    "finish_reason",
    "excluded",
    "steps",
    "accepted",
    "tau",
    "emitted_tokens",
    "per_step_accepted",
    "per_step_drafted",
    "unsettled_drafted",
    "unsettled_accepted",
)


def _require_closed_sums(record: RequestAcceptance) -> None:
    whole = record.accepted + record.steps
    has_cut_end = record.steps > 0 and record.per_step_accepted[-1] == record.per_step_drafted[-1]
    is_cut = has_cut_end and record.emitted_tokens == whole - 1
    if not is_cut and record.emitted_tokens != whole:
        raise ValueError(
            f"{record.steps} steps that accepted {record.accepted} emit {whole} tokens, one less "
            f"if the last is cut, got {record.emitted_tokens}. Cut with settle_last_step."
        )
    if record.unsettled_drafted and not is_cut:
        raise ValueError(
            f"only a cut last step leaves positions unsettled, got {record.unsettled_drafted} "
            "without a cut. Cut with settle_last_step."
        )


def _require_nothing_emitted(record: RequestAcceptance) -> None:
    if record.emitted_tokens or record.unsettled_accepted:
        raise ValueError(
            "a shadow emits nothing and accepts nothing past the end of an answer, got "
            f"{record.emitted_tokens} emitted and {record.unsettled_accepted} accepted there. "
            "Build it with from_shadow."
        )


def _require_nothing_counted(record: RequestAcceptance, reason: ExclusionReason) -> None:
    if reason not in EXCLUSION_REASONS:
        raise ValueError(f"excluded must be one of {', '.join(EXCLUSION_REASONS)}, got {reason}.")
    if reason == "no_shadow" and record.arm != "shadow":
        raise ValueError(f"only a shadow is excluded as no_shadow, got the arm {record.arm}.")
    if record.steps or record.emitted_tokens or record.unsettled_drafted:
        raise ValueError(
            f"an excluded record has no steps and tokens, got {record.steps} steps, "
            f"{record.emitted_tokens} emitted and {record.unsettled_drafted} unsettled. "
            "Build it with from_exclusion."
        )
