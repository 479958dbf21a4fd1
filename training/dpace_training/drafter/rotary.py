"""Rotary positions: angles of absolute positions, and heads turned by them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from dpace_serve.drafter.checkpoint import DrafterConfig

Angles = tuple[Tensor, Tensor]


class RotaryPositions:
    """Angles as a drafter's configuration asks for them.

    Not a module: a cast of the drafter to a smaller number format must leave the frequencies alone.
    """

    def __init__(self, config: DrafterConfig) -> None:
        self._frequencies, self._scale = rotary_frequencies(config)

    def angles(self, positions: Int[Tensor, "*rows"]) -> Angles:
        """Cosines and sines at positions of a document, counted from 0, in float32."""
        frequencies = self._frequencies.to(positions.device)
        angles = positions.to(torch.float32).unsqueeze(-1) * frequencies
        return angles.cos() * self._scale, angles.sin() * self._scale


def rotary_frequencies(config: DrafterConfig) -> tuple[Float[Tensor, " half"], float]:
    """Angle per position of each rotating pair, and what cosines and sines are multiplied by."""
    if config.rope_scaling is None:
        exponents = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32)
        return 1.0 / config.rope_theta ** (exponents / config.rotary_dim), 1.0
    described = Qwen3Config(
        head_dim=config.head_dim,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters=config.rope_parameters(),
    )
    compute = ROPE_INIT_FUNCTIONS[config.rope_scaling.rope_type]
    frequencies, scale = compute(described, torch.device("cpu"))
    return frequencies, scale


def rotate(
    heads: Float[Tensor, "*rows heads head_dim"],
    cosines: Float[Tensor, "*#rows half"],
    sines: Float[Tensor, "*#rows half"],
) -> Float[Tensor, "*rows heads head_dim"]:
    """Turn the first 2 * half dimensions of each head, i with i + half; the others stay."""
    half = cosines.shape[-1]
    first, second, rest = torch.split(heads, [half, half, heads.shape[-1] - 2 * half], dim=-1)
    cosines, sines = (table.unsqueeze(-2).to(heads.dtype) for table in (cosines, sines))
    turned = (first * cosines - second * sines, second * cosines + first * sines, rest)
    return torch.cat(turned, dim=-1)
