"""How many drafts are right in a row after every token of the answers; deterministic, and not tau.

Decoding visits few anchors where drafting is easy and many where it is hard; here all anchors weigh
alike, so the mean leading run usually reads higher than tau. It uses every token of an answer, and
no drafter chooses its own anchors: good for telling two drafters apart, and positions.

Blocks cut by the end of their answer count with the drafts that lie inside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dpace_training.drafter.model import BlockDrafter
from dpace_training.evaluation.rollouts import (
    Rollout,
    RolloutBatch,
    batches_by_length,
    has_room,
)

SCORES_AT_ONCE = 1 << 25


@dataclass(frozen=True, slots=True)
class LeadingRuns:
    """Sums over anchors; index i of a tuple is draft position i + 1.

    Attributes:
        anchors: Anchors with at least one token of the answer behind them.
        reached: Anchors whose drafts before this position are all right, the position compared.
        right: Those of them whose draft at this position is right too.
        whole_blocks: Anchors whose block lies inside the answer.
        whole_blocks_right: Those of them whose drafts are all right.
    """

    anchors: int
    reached: tuple[int, ...]
    right: tuple[int, ...]
    whole_blocks: int
    whole_blocks_right: int

    @classmethod
    def of(
        cls, runs: Sequence[int], compared: Sequence[int], num_draft_tokens: int
    ) -> "LeadingRuns":
        """Sums of the given anchors.

        Args:
            runs: Right drafts before the first wrong one, of each anchor.
            compared: Drafts of each anchor that lie inside the answer, at least one.
            num_draft_tokens: Draft positions of a block.
        """
        pairs = list(zip(runs, compared, strict=True))
        positions = range(1, num_draft_tokens + 1)
        reached = [[k <= inside and k <= run + 1 for run, inside in pairs] for k in positions]
        return cls(
            anchors=len(pairs),
            reached=tuple(map(sum, reached)),
            right=tuple(sum(run >= k for run in runs) for k in positions),
            whole_blocks=sum(inside == num_draft_tokens for inside in compared),
            whole_blocks_right=sum(run == num_draft_tokens for run in runs),
        )

    def __add__(self, other: "LeadingRuns") -> "LeadingRuns":
        """Sums over the anchors of both."""
        return LeadingRuns(
            self.anchors + other.anchors,
            tuple(a + b for a, b in zip(self.reached, other.reached, strict=True)),
            tuple(a + b for a, b in zip(self.right, other.right, strict=True)),
            self.whole_blocks + other.whole_blocks,
            self.whole_blocks_right + other.whole_blocks_right,
        )

    @property
    def pair(self) -> tuple[int, int]:
        """Right leading drafts and anchors: mean leading run = 1 + their ratio."""
        return sum(self.right), self.anchors


@torch.inference_mode()
def leading_runs(
    drafter: BlockDrafter,
    rollouts: Sequence[Rollout],
    *,
    embedding: Float[Tensor, "vocab hidden"],
    head: Float[Tensor, "vocab hidden"],
    advance: Callable[[int], None],
) -> list[LeadingRuns]:
    """Draft after every token of every answer but its last, and count what is right.

    Args:
        drafter: Drafter of the target that wrote the answers.
        rollouts: Prompts and answers.
        embedding: The target's input embedding.
        head: The target's LM head.
        advance: Told how many more answers are done.

    Returns:
        The sums of each rollout.

    Source:
        The evaluation of SpecForge's training script (sgl-project/SpecForge pull request 578).
    """
    num_draft_tokens = drafter.config.num_draft_tokens
    found: dict[int, LeadingRuns] = {}
    lengths = [len(rollout.token_ids) for rollout in rollouts]
    for places in batches_by_length(lengths, fits=has_room):
        batch = RolloutBatch.of(drafter, [rollouts[place] for place in places])
        firsts = [rollouts[place].num_prompt_tokens for place in places]
        runs = _runs_after_all_tokens(drafter, batch, firsts, embedding=embedding, head=head)
        for row, place in enumerate(places):
            rest = range(rollouts[place].last - firsts[row], 0, -1)  # tokens behind each anchor
            compared = [min(tokens, num_draft_tokens) for tokens in rest]
            found[place] = LeadingRuns.of(
                runs[row, : len(compared)].tolist(), compared, num_draft_tokens
            )
        advance(len(places))
    return [found[place] for place in range(len(rollouts))]


def _runs_after_all_tokens(
    drafter: BlockDrafter,
    batch: RolloutBatch,
    firsts: Sequence[int],
    *,
    embedding: Float[Tensor, "vocab hidden"],
    head: Float[Tensor, "vocab hidden"],
) -> Int[Tensor, "rollouts anchors"]:
    """Leading runs after each token from the first of the answer on; garbage past its end."""
    rollouts, tokens = batch.token_ids.shape
    first = batch.lasts.new_tensor(firsts).unsqueeze(1)
    most = max(1, int((batch.lasts - first[:, 0]).max()))
    anchors = first + torch.arange(most, device=first.device)
    # Padding of the anchors drafts after the document's first token, which sees no context.
    anchors = anchors.masked_fill(anchors >= batch.lasts.unsqueeze(1), 0)
    block_scores = drafter.config.block_size * drafter.config.num_attention_heads * tokens
    at_once = max(1, SCORES_AT_ONCE // (rollouts * block_scores))
    parts = [
        batch.leading_runs(drafter, part, embedding=embedding, head=head)
        for part in anchors.split(at_once, dim=1)
    ]
    return torch.cat(parts, dim=1)
