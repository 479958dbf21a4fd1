"""Sliding windows: layers of a drafter that see only the last tokens before each position."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpace_serve.drafter.config_values import flag, given, whole
from dpace_serve.errors import CheckpointError

FULL_ATTENTION = "full_attention"
SLIDING_ATTENTION = "sliding_attention"
_KINDS = (FULL_ATTENTION, SLIDING_ATTENTION)
# transformers' default of max_window_layers, where neither it nor layer_types is given.
_FIRST_SLIDING_LAYER = 28


@dataclass(frozen=True, slots=True)
class SlidingAttention:
    """Which layers have a window, and what it holds.

    A position sees itself and the `window - 1` positions before it, context and block alike, as
    vLLM counts it. Inside the block it also sees the positions behind it, unless `is_causal`.
    """

    window: int
    layers: tuple[int, ...]
    """Numbers of the layers with a window, from 0, rising; at least one."""
    is_causal: bool = False
    """Whether a position of a windowed layer is blind to the positions behind it in its block."""

    def check(self, *, num_hidden_layers: int, block_size: int) -> None:
        """Compare with the drafter that it belongs to.

        Raises:
            CheckpointError: If a layer does not exist, or the window does not hold a block.
        """
        if (
            not self.layers
            or list(self.layers) != sorted(set(self.layers))
            or not 0 <= self.layers[0] <= self.layers[-1] < num_hidden_layers
        ):
            raise CheckpointError(
                f"layers with a sliding window must rise within 0..{num_hidden_layers - 1},"
                f" got {list(self.layers)}. Correct layer_types."
            )
        if self.window < block_size:
            raise CheckpointError(
                f"sliding_window must be at least block_size = {block_size}, so that a block sees"
                f" all of itself, got {self.window}. Give a drafter with a larger window."
            )

    def layer_types(self, num_hidden_layers: int) -> list[str]:
        """The kind of each layer, in the words of transformers."""
        return [
            SLIDING_ATTENTION if layer in self.layers else FULL_ATTENTION
            for layer in range(num_hidden_layers)
        ]


def read_sliding(
    values: Mapping[str, Any], dflash: Mapping[str, Any], *, num_hidden_layers: int
) -> SlidingAttention | None:
    """The windows of a configuration, as vLLM reads it; None where no layer has one.

    Raises:
        CheckpointError: If the keys contradict each other.
    """
    layers = _sliding_layers(values, num_hidden_layers)
    if not layers:
        return None
    if not flag("use_sliding_window", values) and dflash.get("swa_window_size") is None:
        # transformers drops the window's size then, and vLLM refuses layers without one.
        raise CheckpointError(
            f"use_sliding_window must be true where layer_types has {SLIDING_ATTENTION}, got"
            f" {values.get('use_sliding_window')!r:.80}. Correct what is wrong in config.json."
        )
    sizes = ({"sliding_window": dflash.get("swa_window_size")}, values)
    is_bidirectional = False in (values.get("is_causal"), dflash.get("causal"))
    return SlidingAttention(whole("sliding_window", *sizes), layers, not is_bidirectional)


def _sliding_layers(values: Mapping[str, Any], num_hidden_layers: int) -> tuple[int, ...]:
    types = values.get("layer_types")
    if types is None:
        if not flag("use_sliding_window", values) or values.get("sliding_window") is None:
            return ()
        first = values.get("max_window_layers")
        start = _FIRST_SLIDING_LAYER if first is None else whole("max_window_layers", values)
        return tuple(range(start, num_hidden_layers))
    kinds = given("layer_types", (values,))
    if not isinstance(kinds, list) or not all(kind in _KINDS for kind in kinds):
        raise CheckpointError(
            f"layer_types must name {FULL_ATTENTION} or {SLIDING_ATTENTION} for each layer,"
            f" got {types!r:.80}. Give a drafter with such layers."
        )
    if len(kinds) != num_hidden_layers:
        raise CheckpointError(
            f"layer_types must have one entry per layer (num_hidden_layers is {num_hidden_layers}),"
            f" got {len(kinds)}. Correct config.json."
        )
    return tuple(layer for layer, kind in enumerate(kinds) if kind == SLIDING_ATTENTION)
