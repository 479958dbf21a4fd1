"""What one step works on; the same on every side."""

from dataclasses import dataclass
from typing import Literal

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class StepSize:
    """The bundled drafter and its batches.

    No pydantic here: peers' interpreters read this, and need not have it.
    """

    num_documents: int = 16
    num_tokens: int = 96
    """Tokens of each document."""
    num_prompt_tokens: int = 16
    """The first of them, which are not trained on."""
    num_anchors: int = 16
    """Blocks of each document."""
    block_size: int = 8
    num_taps: int = 5
    num_target_layers: int = 28
    hidden_size: int = 192
    intermediate_size: int = 384
    num_layers: int = 2
    num_heads: int = 6
    num_kv_heads: int = 2
    head_dim: int = 32
    vocab_size: int = 4096
    rope_theta: float = 10000.0
    mask_token_id: int = 3
    alpha: float = 0.5
    """Smoothing of D-PACE's confidences."""
    learning_rate: float = 0.002
    clip_norm: float = 1.0

    @property
    def target_layer_ids(self) -> list[int]:
        """Tapped layers of the target, evenly spread; a step's time does not depend on which."""
        return [index * self.num_target_layers // self.num_taps for index in range(self.num_taps)]
