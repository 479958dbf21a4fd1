"""What positions of a block may see: context before its anchor, and the block itself."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dpace_serve.drafter.sliding import SlidingAttention


@dataclass(frozen=True, slots=True)
class Sight:
    """The rule that every implementation of attention follows.

    The position at offset i of a block stands at `anchor + i`. It sees context tokens from `starts`
    on and before the anchor, and of these only those in its window, which holds the position
    itself. It sees its own block: all of it, or with `is_causal` what does not stand behind it. It
    never sees other blocks.

    Attributes:
        anchors: Position of each block's anchor.
        starts: Where the document of each block begins.
        num_tokens: Positions of the context.
        block_size: Positions of a block.
        window: Tokens that a position sees at most; at least the block, None for all.
        is_causal: Whether later positions of the block are hidden.
    """

    anchors: Int[Tensor, "documents blocks"]
    starts: Int[Tensor, "documents blocks"]
    num_tokens: int
    block_size: int
    window: int | None = None
    is_causal: bool = False

    def through(self, sliding: SlidingAttention) -> "Sight":
        """The same with a window."""
        return replace(self, window=sliding.window, is_causal=sliding.is_causal)

    def hidden_context(self) -> Bool[Tensor, "documents blocks rows tokens"]:
        """True where context must not be seen; one row where all of a block see the same."""
        positions = torch.arange(self.num_tokens, device=self.anchors.device)
        anchors, starts = self.anchors[..., None, None], self.starts[..., None, None]
        is_hidden = (positions >= anchors) | (positions < starts)
        if self.window is None:
            return is_hidden
        queries = anchors + self.offsets().unsqueeze(-1)
        return is_hidden | (positions <= queries - self.window)

    def hidden_own(self) -> Bool[Tensor, "block_size block_size"] | None:
        """True where one (first axis) must not see another of its block; None hides nothing."""
        offsets = self.offsets()
        return offsets > offsets.unsqueeze(-1) if self.is_causal else None

    def offsets(self) -> Int[Tensor, " block_size"]:
        """Places in a block, from 0 at the anchor."""
        return torch.arange(self.block_size, device=self.anchors.device)
