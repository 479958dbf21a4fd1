"""Acceptance on a finished answer of the target, without decoding it again.

The drafter drafts after every token of the answer in one pass; then the anchors are walked as the
decode loop would have visited them. On the target's own greedy answer this is what `decode` counts,
step by step. On an answer that the target sampled, it is one draw of what an engine counts that
verifies most likely tokens (one-hot drafts) at that temperature: such a draft is accepted with the
target's probability of it, and that is how often the target's own sample equals it. On any other
text it means nothing.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dpace_serve.acceptance.request import SettledSteps, settle_last_step
from dpace_training.drafter.model import BlockDrafter
from dpace_training.evaluation.decode import NO_STEPS


@dataclass(frozen=True, slots=True)
class Rollout:
    """A prompt, the target's greedy answer to it, and what the target thought on the way."""

    token_ids: Int[Tensor, " tokens"]
    """Prompt and answer."""
    num_prompt_tokens: int
    """Where the answer starts; its first token comes from the prompt's pass, at least 1."""
    taps: Float[Tensor, "tapped_tokens taps_size"]
    """Hidden states of the tapped layers, for all tokens but, if you like, the last."""


@torch.inference_mode()
def replay(
    drafter: BlockDrafter,
    rollout: Rollout,
    *,
    embedding: Float[Tensor, "vocab hidden"],
    head: Float[Tensor, "vocab hidden"],
    blocks_per_chunk: int,
) -> SettledSteps:
    """Verification steps that decoding this answer with this drafter takes.

    What the target would have accepted past the end of the answer cannot be known from the answer,
    so `unsettled_accepted` is 0.

    Args:
        drafter: Drafter of the target that wrote the answer.
        rollout: Prompt and answer.
        embedding: The target's input embedding.
        head: The target's LM head.
        blocks_per_chunk: Blocks whose logits exist at the same time.

    Returns:
        The steps, the last one cut to the end of the answer; none if the answer is a single token,
        which needs no verification.
    """
    first, last = rollout.num_prompt_tokens, rollout.token_ids.shape[0] - 1
    if first >= last:
        return NO_STEPS
    anchors = torch.arange(first, last, device=rollout.token_ids.device)
    runs = _leading_runs(
        drafter, rollout, anchors, embedding=embedding, head=head, blocks_per_chunk=blocks_per_chunk
    )
    accepted: list[int] = []
    anchor = first
    while anchor < last:
        accepted.append(runs[anchor - first])
        anchor += accepted[-1] + 1
    drafted = [drafter.config.block_size - 1] * len(accepted)
    # The walk passes the end by one exactly when the answer ended inside the accepted drafts.
    return settle_last_step(accepted, drafted, accepted[-1] + 1 - (anchor - last))


def _leading_runs(
    drafter: BlockDrafter,
    rollout: Rollout,
    anchors: Int[Tensor, " blocks"],
    *,
    embedding: Float[Tensor, "vocab hidden"],
    head: Float[Tensor, "vocab hidden"],
    blocks_per_chunk: int,
) -> list[int]:
    """Right drafts before the first wrong one, per anchor; the end of the answer ends a run."""
    runs: list[int] = []
    offsets = torch.arange(1, drafter.config.block_size, device=anchors.device)
    taps = rollout.taps.unsqueeze(0)
    for chunk in torch.split(anchors, blocks_per_chunk):
        inputs = drafter.embed_blocks(rollout.token_ids[chunk].unsqueeze(0), embedding)
        hidden = drafter(taps, inputs, chunk.unsqueeze(0))[0, :, 1:]
        drafts = (hidden @ head.T).argmax(dim=-1)
        positions = chunk.unsqueeze(-1) + offsets
        is_inside = positions < rollout.token_ids.shape[0]
        answer = rollout.token_ids[positions.masked_fill(~is_inside, 0)]
        is_right = (drafts == answer) & is_inside
        runs += is_right.cumprod(dim=-1).sum(dim=-1).tolist()
    return runs
