"""Verification steps of an answer, and what of the last one is counted.

Only positions settled by emitted tokens are counted. The engine verifies a whole block before it
looks for the end of the answer (an end token or the token limit), so the last step may have
accepted tokens that nobody receives. Such a step is cut to what it emitted; the positions past
the end are neither accepted nor drafted but *unsettled*, and kept, so that sums close exactly:

    emitted_tokens    = sum(accepted) + steps - (1 if the last step was cut else 0)
    engine's drafted  = sum(drafted)  + unsettled_drafted
    engine's accepted = sum(accepted) + unsettled_accepted
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dpace_serve.acceptance.counts import require_steps


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
    require_unsettled(settled.unsettled_drafted, settled.unsettled_accepted)
    return settled


def require_unsettled(drafted: int, accepted: int) -> None:
    """Refuse numbers of unsettled positions that no answer can leave.

    Raises:
        ValueError: If they do not have 0 <= accepted <= drafted.
    """
    if not 0 <= accepted <= drafted:
        raise ValueError(
            "unsettled positions need 0 <= accepted <= drafted, got "
            f"{accepted} and {drafted}. Cut with settle_last_step."
        )
