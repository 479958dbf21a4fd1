"""Acceptance on finished answers of the target, without decoding them again.

The drafter drafts after the anchors that the decode loop would have visited, and only there: in
rounds, each of which drafts after the present anchor of every answer of a batch. On the target's
own greedy answer this is what `decode` counts, step by step. On an answer that the target sampled,
it is one draw of what an engine counts that verifies most likely tokens (one-hot drafts) at that
temperature: such a draft is accepted with the target's probability of it, and that is how often
the target's own sample equals it. On any other text it means nothing.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dpace_serve.acceptance.last_step import SettledSteps, settle_last_step
from dpace_training.drafter.model import BlockDrafter
from dpace_training.evaluation.decode import NO_STEPS
from dpace_training.evaluation.rollouts import (
    Rollout,
    RolloutBatch,
    batches_by_length,
    has_room,
)


@torch.inference_mode()
def replay(
    drafter: BlockDrafter,
    rollouts: Sequence[Rollout],
    *,
    embedding: Float[Tensor, "vocab hidden"],
    head: Float[Tensor, "vocab hidden"],
    advance: Callable[[int], None],
) -> list[SettledSteps]:
    """Verification steps that decoding each answer with this drafter takes.

    What the target would have accepted past the end of the answer cannot be known from the answer,
    so `unsettled_accepted` is 0.

    Args:
        drafter: Drafter of the target that wrote the answers.
        rollouts: Prompts and answers.
        embedding: The target's input embedding.
        head: The target's LM head.
        advance: Told how many more answers are done.

    Returns:
        Per rollout the steps, the last one cut to the end of the answer; none if the answer is a
        single token, which needs no verification.
    """
    accepted: list[list[int]] = [[] for _ in rollouts]
    lengths = [len(rollout.token_ids) for rollout in rollouts]
    for places in batches_by_length(lengths, fits=has_room):
        batch = [rollouts[place] for place in places]
        for place, steps in zip(
            places, _accepted_by_step(drafter, batch, embedding=embedding, head=head), strict=True
        ):
            accepted[place] = steps
        advance(len(places))
    num_draft_tokens = drafter.config.num_draft_tokens
    return [
        _settled(rollout, steps, num_draft_tokens)
        for rollout, steps in zip(rollouts, accepted, strict=True)
    ]


def _accepted_by_step(
    drafter: BlockDrafter,
    rollouts: Sequence[Rollout],
    *,
    embedding: Float[Tensor, "vocab hidden"],
    head: Float[Tensor, "vocab hidden"],
) -> list[list[int]]:
    accepted: list[list[int]] = [[] for _ in rollouts]
    batch = RolloutBatch.of(drafter, rollouts)
    rows = torch.arange(len(rollouts))
    anchors = batch.lasts.new_tensor([rollout.num_prompt_tokens for rollout in rollouts])
    while True:
        is_open = anchors < batch.lasts
        if not is_open.all():
            kept = is_open.nonzero().flatten()
            batch, rows, anchors = batch.only(kept), rows[kept.to(rows.device)], anchors[kept]
        if not len(rows):
            return accepted
        runs = batch.leading_runs(drafter, anchors.unsqueeze(1), embedding=embedding, head=head)
        for row, run in zip(rows.tolist(), runs[:, 0].tolist(), strict=True):
            accepted[row].append(run)
        anchors = anchors + runs[:, 0] + 1


def _settled(rollout: Rollout, accepted: Sequence[int], num_draft_tokens: int) -> SettledSteps:
    if not accepted:
        return NO_STEPS
    passed = rollout.num_prompt_tokens + sum(accepted) + len(accepted) - rollout.last
    # The walk passes the end by one exactly when the answer ended inside the accepted drafts.
    drafted = [num_draft_tokens] * len(accepted)
    return settle_last_step(accepted, drafted, accepted[-1] + 1 - passed)
