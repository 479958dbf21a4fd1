"""BlockDrafter: drafts a whole block in one pass from the target's hidden states.

The tapped hidden states of every context token become one context feature, once. In every layer
that feature gives keys and values next to those of the block's own tokens; queries come from block
tokens only. A block holds its anchor, a real token, and mask tokens; the output at index k of the
block predicts the token k places after the anchor.

Shapes: documents are independent rows; `taps` holds the concatenated outputs of the tapped target
layers; index 0 of `block_size` is the anchor.

Source:
    DFlash, arXiv 2602.06036.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dpace_serve.drafter.checkpoint import DrafterConfig
from dpace_training.config import AttentionName, FitConfig
from dpace_training.drafter.attention import ATTENTIONS, Attention
from dpace_training.drafter.layer import DrafterLayer, KeysAndValues, RMSNorm
from dpace_training.drafter.rotary import RotaryPositions
from dpace_training.drafter.sight import Sight
from dpace_training.drafter.specialists import (
    LastLayerSpecialists,
    LowRankSpecialists,
    SharedLayer,
)


class BlockDrafter(nn.Module):
    """The trainable drafter; embedding and LM head are the target's and stay outside.

    Attributes:
        specialists: What groups of draft positions have of their own; none in a plain drafter.
        attention: Which implementation of attention computes.
        recompute_layers: Work out a layer's activations again in the backward pass.
    """

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.config = config
        taps_size = len(config.target_layer_ids) * config.target_hidden_size
        self.fc = nn.Linear(taps_size, config.hidden_size, bias=False)
        self.hidden_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.layers = nn.ModuleList(DrafterLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        # Last, so that a seed gives the plain part the weights of a plain drafter.
        self.specialists = self._make_specialists()
        self._rotary = RotaryPositions(config)
        self.attention: AttentionName = FitConfig().attention
        self.recompute_layers = FitConfig().recompute_layers

    def forward(
        self,
        taps: Float[Tensor, "documents tokens taps_size"],
        block_embeddings: Float[Tensor, "documents blocks block_size hidden"],
        anchors: Int[Tensor, "documents blocks"],
        starts: Int[Tensor, "documents blocks"] | None = None,
    ) -> Float[Tensor, "documents blocks block_size hidden"]:
        """Last hidden states of all blocks; the one at index 0, the anchor's, is unused.

        A block sees taps at positions before its anchor only, and in layers with a window only
        those inside it. Taps that no block of a document sees are never read, so padding may hold
        anything. A dropped block may have any anchor, for example 0; it sees at least itself.

        Args:
            taps: Target hidden states, see the module's text; any floating dtype.
            block_embeddings: Embedded anchors and mask tokens, from `embed_blocks`.
            anchors: Position of each block's anchor in its document.
            starts: Where the document of each block begins, if several share a row.
        """
        starts = torch.zeros_like(anchors) if starts is None else starts
        taps = taps[:, : int(anchors.max()) if anchors.numel() else 0]
        # Filled before the projection, because 0 * NaN in its backward pass would still be NaN.
        sight = Sight(anchors, starts, taps.shape[1], self.config.block_size)
        is_unseen = sight.hidden_context().squeeze(2).all(dim=1)
        taps = taps.masked_fill(is_unseen.unsqueeze(-1), 0)
        return self.draft_blocks(self.read_context(taps), block_embeddings, anchors, starts)

    def read_context(
        self, taps: Float[Tensor, "documents tokens taps_size"]
    ) -> list[KeysAndValues]:
        """Keys and values of the context in every layer, which all blocks of a document share.

        Args:
            taps: Target hidden states from position 0 on, finite; any floating dtype.
        """
        context = self.hidden_norm(self.fc(taps.to(self.fc.weight.dtype)))
        angles = self._rotary.angles(torch.arange(taps.shape[1], device=taps.device))
        layers = [cast(DrafterLayer | SharedLayer, layer) for layer in self.layers]
        return [layer.read_context(context, angles) for layer in layers]

    def draft_blocks(
        self,
        context: Sequence[KeysAndValues],
        block_embeddings: Float[Tensor, "documents blocks block_size hidden"],
        anchors: Int[Tensor, "documents blocks"],
        starts: Int[Tensor, "documents blocks"] | None = None,
    ) -> Float[Tensor, "documents blocks block_size hidden"]:
        """Last hidden states of all blocks; `forward` for a context that was read before.

        Args:
            context: From `read_context`; a block reads what stands before its anchor.
            block_embeddings: Embedded anchors and mask tokens, from `embed_blocks`.
            anchors: Position of each block's anchor in its document.
            starts: Where the document of each block begins, if several share a row.
        """
        starts = torch.zeros_like(anchors) if starts is None else starts
        sight = Sight(anchors, starts, context[0][0].shape[1], self.config.block_size)
        block_offsets = torch.arange(self.config.block_size, device=anchors.device)
        block_angles = self._rotary.angles(anchors.unsqueeze(-1) + block_offsets)
        hidden = block_embeddings
        attentions = self._attentions(sight)
        for layer, layer_context, attend in zip(self._steps(), context, attentions, strict=True):
            inputs = (hidden, layer_context, block_angles, attend)
            if self.recompute_layers and torch.is_grad_enabled():
                hidden = checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)
            else:
                hidden = layer(*inputs)
        normed: Tensor = self.norm(hidden)
        if isinstance(self.specialists, LowRankSpecialists):
            normed = self.specialists(normed)
        return normed

    def embed_blocks(
        self,
        anchor_tokens: Int[Tensor, "documents blocks"],
        embedding: Float[Tensor, "vocab hidden"],
    ) -> Float[Tensor, "documents blocks block_size hidden"]:
        """Inputs of the blocks: the anchor token, then mask tokens, in the target's embedding."""
        shape = (*anchor_tokens.shape, self.config.block_size)
        token_ids = anchor_tokens.new_full(shape, self.config.mask_token_id)
        token_ids[..., 0] = anchor_tokens
        return functional.embedding(token_ids, embedding)

    def draft(
        self,
        taps_prefix: Float[Tensor, "tokens taps_size"],
        anchor_token: int,
        embedding: Float[Tensor, "vocab hidden"],
        head: Float[Tensor, "vocab hidden"],
    ) -> Float[Tensor, "positions vocab"]:
        """Logits of all draft positions after one anchor, whose position is the prefix length."""
        position = torch.tensor([[taps_prefix.shape[0]]], device=taps_prefix.device)
        token = torch.tensor([[anchor_token]], device=taps_prefix.device)
        hidden = self(taps_prefix.unsqueeze(0), self.embed_blocks(token, embedding), position)
        logits: Tensor = hidden[0, 0, 1:] @ head.T
        return logits

    def _attentions(self, sight: Sight) -> list[Attention]:
        """The attention of each layer; layers with the same sight share one."""
        make, sliding = ATTENTIONS[self.attention], self.config.sliding
        full = make(sight)
        if sliding is None:
            return [full] * len(self.layers)
        windowed = make(sight.through(sliding))
        return [windowed if layer in sliding.layers else full for layer in range(len(self.layers))]

    def _make_specialists(self) -> LowRankSpecialists | LastLayerSpecialists | None:
        """The specialists, if there are any; takes away from the last layer what they replace."""
        specialists = self.config.specialists
        if specialists is None:
            return None
        if specialists.kind == "low_rank":
            return LowRankSpecialists(self.config, specialists)
        last = cast(DrafterLayer, self.layers[-1])
        self.layers[-1] = SharedLayer(last)
        return LastLayerSpecialists(self.config, specialists, last)

    def _steps(self) -> list[Callable[..., Tensor]]:
        """What computes each layer."""
        steps: list[Callable[..., Tensor]] = list(self.layers)
        if isinstance(self.specialists, LastLayerSpecialists):
            steps[-1] = partial(self.specialists, steps[-1])
        return steps
