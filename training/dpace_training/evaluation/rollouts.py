"""Finished answers of the target in padded batches, and what a drafter gets right in them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dpace_training.drafter.layer import KeysAndValues
from dpace_training.drafter.model import BlockDrafter

PADDED_TOKENS_AT_ONCE = 8192
LOGITS_AT_ONCE = 1 << 25


@dataclass(frozen=True, slots=True)
class Rollout:
    """A prompt, the target's own answer to it, and what the target thought on the way."""

    token_ids: Int[Tensor, " tokens"]
    """Prompt and answer."""
    num_prompt_tokens: int
    """Where the answer starts; its first token comes from the prompt's pass, at least 1."""
    taps: Float[Tensor, "tapped_tokens taps_size"]
    """Hidden states of the tapped layers, for all tokens but, if you like, the last; any floating
    dtype. Like the tokens they wait in main memory, wherever the drafter computes."""

    @property
    def last(self) -> int:
        """Position of the answer's last token; anchors lie before it."""
        return self.token_ids.shape[0] - 1


def batches_by_length(
    lengths: Sequence[int], *, fits: Callable[[int, int, int], bool]
) -> Iterator[list[int]]:
    """Places of sequences that go together, longest first; one that fits nowhere is alone.

    Args:
        lengths: Tokens of each sequence.
        fits: Whether a batch may have so many rows, such a longest and such a shortest one.
    """
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if batch and not fits(len(batch) + 1, lengths[batch[0]], lengths[place]):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def has_room(rows: int, longest: int, _shortest: int) -> bool:
    """Whether so many rollouts, padded to the longest, fit into one batch."""
    return rows * longest <= PADDED_TOKENS_AT_ONCE


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """Rollouts side by side, padded on the right, with their context as the drafter reads it.

    No padding is ever compared or seen: a block sees what stands before its anchor, and drafts
    past the end of an answer count as wrong.
    """

    token_ids: Int[Tensor, "rollouts tokens"]
    lasts: Int[Tensor, " rollouts"]
    context: list[KeysAndValues]

    @classmethod
    def of(cls, drafter: BlockDrafter, rollouts: Sequence[Rollout]) -> "RolloutBatch":
        """Pad rollouts, and read their context once for all blocks that will be drafted."""
        # The last token is never before an anchor; some rollouts have no taps for it.
        taps = [rollout.taps[: rollout.last] for rollout in rollouts]
        token_ids = pad_sequence([rollout.token_ids for rollout in rollouts], batch_first=True)
        device = drafter.fc.weight.device
        return cls(
            token_ids=token_ids.to(device),
            lasts=torch.tensor([rollout.last for rollout in rollouts], device=device),
            context=drafter.read_context(pad_sequence(taps, batch_first=True).to(device)),
        )

    def only(self, rows: Int[Tensor, " kept"]) -> "RolloutBatch":
        """Some of the rollouts."""
        context = [(keys[rows], values[rows]) for keys, values in self.context]
        return RolloutBatch(self.token_ids[rows], self.lasts[rows], context)

    def leading_runs(
        self,
        drafter: BlockDrafter,
        anchors: Int[Tensor, "rollouts blocks"],
        *,
        embedding: Float[Tensor, "vocab hidden"],
        head: Float[Tensor, "vocab hidden"],
    ) -> Int[Tensor, "rollouts blocks"]:
        """Right drafts before the first wrong one after each anchor; an answer's end ends a run."""
        inputs = drafter.embed_blocks(self.token_ids.gather(1, anchors), embedding)
        hidden = drafter.draft_blocks(self.context, inputs, anchors)[:, :, 1:]
        drafts = _most_likely_tokens(hidden.flatten(0, 2), head).view(hidden.shape[:3])
        offsets = torch.arange(1, drafter.config.block_size, device=anchors.device)
        positions = anchors.unsqueeze(-1) + offsets
        is_inside = positions <= self.lasts.view(-1, 1, 1)
        places = positions.masked_fill(~is_inside, 0)
        answer = self.token_ids.gather(1, places.flatten(1)).view(places.shape)
        return ((drafts == answer) & is_inside).cumprod(dim=-1).sum(dim=-1)


def _most_likely_tokens(
    hidden: Float[Tensor, "positions hidden"], head: Float[Tensor, "vocab hidden"]
) -> Int[Tensor, " positions"]:
    parts = hidden.split(max(1, LOGITS_AT_ONCE // head.shape[0]))
    return torch.cat([(part @ head.T).argmax(dim=-1) for part in parts])
