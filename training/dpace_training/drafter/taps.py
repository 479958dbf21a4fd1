"""Taps: the hidden states of the target that a drafter reads.

Layer id i means the output of decoder layer i, counted from 0 and before any final norm; engines
read the ids of a checkpoint in the same way.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel


class RecordedTaps:
    """Outputs of the tapped layers in the last forward pass of the target."""

    def __init__(self, layer_ids: Sequence[int]) -> None:
        self.layer_ids = tuple(layer_ids)
        self.outputs: dict[int, Tensor] = {}

    def joined(self) -> Float[Tensor, "documents tokens taps_size"]:
        """Outputs side by side, in the order of the layer ids."""
        return torch.cat([self.outputs[layer_id] for layer_id in self.layer_ids], dim=-1)


@contextmanager
def recorded_taps(target: PreTrainedModel, layer_ids: Sequence[int]) -> Iterator[RecordedTaps]:
    """Record the tapped layers of a transformers decoder while the context is open.

    The model's own `output_hidden_states` would not do: it keeps all layers, and its last entry
    has passed the final norm.

    Args:
        target: Causal language model of transformers; of a multimodal one, its text part is tapped.
        layer_ids: Layers to tap.
    """
    recorded = RecordedTaps(layer_ids)
    layers: nn.ModuleList = target.get_decoder().layers
    handles = [
        layers[layer_id].register_forward_hook(partial(_record, recorded, layer_id))
        for layer_id in recorded.layer_ids
    ]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _record(
    recorded: RecordedTaps,
    layer_id: int,
    _layer: nn.Module,
    _inputs: object,
    output: Tensor | tuple[Tensor, ...],
) -> None:
    recorded.outputs[layer_id] = output[0] if isinstance(output, tuple) else output
