"""Cross-entropy of labels and the most likely tokens, with one buffer the size of the logits."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


def cross_entropy(
    logits: Float[Tensor, "*positions vocab"], labels: Int[Tensor, "*positions"]
) -> tuple[Float[Tensor, "*positions"], Int[Tensor, "*positions"]]:
    """Negative log-probability of each label in nats, and each position's most likely token.

    `torch.nn.functional.cross_entropy` allocates log-probabilities, zeros for the gradient and the
    gradient; here the probabilities become the gradient in place. So only one backward pass can
    be taken: a second one is refused by autograd.

    Args:
        logits: In float32 or wider.
        labels: Tokens of the vocabulary.
    """
    losses, most_likely = _CrossEntropy.apply(logits, labels)  # type: ignore[no-untyped-call]  # torch has no types
    return losses, most_likely


class _CrossEntropy(torch.autograd.Function):
    """The loss, whose gradient by the logits is probabilities minus one at the label."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch gives it no type)
        logits: Tensor,
        labels: Tensor,
    ) -> tuple[Tensor, Tensor]:
        labels = labels.unsqueeze(-1)
        most_likely = logits.argmax(dim=-1, keepdim=True)
        probabilities = logits.softmax(dim=-1)
        # Through the highest probability, which is at least 1 / vocab: the label's may be 0.
        behind = logits.gather(-1, most_likely) - logits.gather(-1, labels)
        losses = behind - probabilities.gather(-1, most_likely).log()
        most_likely = most_likely.squeeze(-1)
        ctx.save_for_backward(probabilities, labels)
        ctx.mark_non_differentiable(most_likely)
        return losses.squeeze(-1), most_likely

    @staticmethod
    def backward(ctx: Any, outer: Tensor, _: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        probabilities, labels = ctx.saved_tensors
        outer = outer.unsqueeze(-1)
        return probabilities.mul_(outer).scatter_add_(-1, labels, -outer), None
