"""Token loss: what one draft position costs before it is weighted."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


def cross_entropy(
    logits: Float[Tensor, "blocks positions vocab"],
    labels: Int[Tensor, "blocks positions"],
) -> Float[Tensor, "blocks positions"]:
    """Negative log-probability of each label in nats, computed in float32 or wider."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = functional.cross_entropy(wide.flatten(0, 1), labels.flatten(), reduction="none")
    return losses.view(labels.shape)
