"""A challenger's drafts, judged by the tokens that the target emitted later.

Beside the champion, whose drafts are verified, a challenger drafts for the same anchors. What it
drafted is compared with the finished answer:

- Greedy: the answer is what the target would have said in any case, so the number of leading
  matches is exactly what verification would have accepted.
- Sampling: each token of the answer is the target's own sample, whoever drafted it. A draft that is
  one token, not a distribution, is accepted with the target's probability of it, and that is how
  often the target's sample equals it. So the matches are an unbiased draw of the same number.
  It does not hold where drafts are sampled and verified by their probabilities, nor where blocks
  are verified as a whole.

A draft may reach past what the champion's step emitted: it stays open until it fails, is complete
or the answer ends. Positions behind the end were never compared. They are *unsettled*, which is
neither accepted nor rejected:

    drafted by the challenger = sum(drafted) + unsettled_drafted

Blocks start where the champion stopped, and only those count whose champion's block was verified:
what was drafted and then dropped, as for a request that is preempted, is no step of either. A
challenger in service would stop elsewhere, so the mean over these steps is its acceptance at the
champion's anchors: fair to compare with the champion's at the same anchors, and no promise of its
own tau.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShadowDraft:
    """What a challenger drafted after one token of an answer.

    Attributes:
        anchor: Index of that token in the answer, from 0.
        token_ids: The drafted tokens; the first one is drafted for index `anchor + 1`.
    """

    anchor: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ShadowSteps:
    """A challenger's drafts for one answer, compared with it; in the order of their anchors.

    Attributes:
        anchors: Index in the answer that each block started from.
        per_step_accepted: Leading drafted tokens that the answer agrees with.
        per_step_drafted: Drafted tokens that were compared, at least one; all of a block unless the
            answer ended while it was open.
        unsettled_drafted: Drafted tokens behind the end of the answer.
    """

    anchors: tuple[int, ...]
    per_step_accepted: tuple[int, ...]
    per_step_drafted: tuple[int, ...]
    unsettled_drafted: int


def settle_drafts(answer: Sequence[int], drafts: Sequence[ShadowDraft]) -> ShadowSteps:
    """Compare drafts with the finished answer.

    Args:
        answer: Token ids that the request received, whoever drafted them.
        drafts: One for each anchor, in their order.

    Raises:
        ValueError: If an anchor is not in the answer, or anchors are not in order.
    """
    anchors, accepted, drafted = [], [], []
    unsettled = 0
    for draft, before in zip(drafts, [None, *drafts], strict=False):
        if not (before.anchor if before else -1) < draft.anchor < len(answer):
            raise ValueError(
                f"anchors must rise and lie inside an answer of {len(answer)} tokens, got "
                f"{[draft.anchor for draft in drafts]}. Drop what was drafted behind its end."
            )
        later = answer[draft.anchor + 1 : draft.anchor + 1 + len(draft.token_ids)]
        run = _leading_matches(draft.token_ids, later)
        is_open = run == len(later)
        compared = len(later) if is_open else len(draft.token_ids)
        unsettled += len(draft.token_ids) - compared
        if compared:
            anchors.append(draft.anchor)
            accepted.append(run)
            drafted.append(compared)
    return ShadowSteps(tuple(anchors), tuple(accepted), tuple(drafted), unsettled)


def _leading_matches(first: Sequence[int], second: Sequence[int]) -> int:
    matches = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        matches += 1
    return matches
