"""The objective over blocks, a chunk at a time, so that all logits never exist at once."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dpace_training.losses.config import LossConfig
from dpace_training.losses.joint import JOINT_TERMS
from dpace_training.losses.predictions import TargetDistributions, placed, predict, widened
from dpace_training.losses.statistics import ObjectiveStatistics
from dpace_training.losses.token_loss import TOKEN_LOSSES
from dpace_training.losses.weighting import position_weights, until_first_error


@dataclass(frozen=True, slots=True)
class TargetStates:
    """Where the target's own prediction of each draft position comes from.

    Attributes:
        states: Target's last hidden states after its final norm, of all tokens.
        rows: Which of them predicts each draft position: the token before the drafted one.
    """

    states: Float[Tensor, "tokens hidden"]
    rows: Int[Tensor, "blocks positions"]


def block_objective(
    hidden: Float[Tensor, "blocks positions hidden"],
    head_weight: Float[Tensor, "vocab hidden"],
    labels: Int[Tensor, "blocks positions"],
    supervised: Bool[Tensor, "blocks positions"],
    block_scale: Float[Tensor, " blocks"],
    loss: LossConfig,
    target: TargetStates | None = None,
) -> tuple[Float[Tensor, ""], ObjectiveStatistics]:
    """Sum over blocks of scale times (weighted token losses + joint term), and what to log of it.

    Positions run over the draft positions only: the anchor's hidden state is not passed. Blocks
    without a supervised position cost nothing, and neither they nor unsupervised positions reach
    the loss or the gradient, even if they hold NaN. With no block left the loss is 0 and
    still has a (zero) gradient.

    Args:
        hidden: Drafter's last hidden states, after the final norm.
        head_weight: The target's LM head.
        labels: Token to predict; any value where not supervised.
        supervised: False where a position must not be trained on.
        block_scale: Factor of each block, from `reduction.block_scales`.
        loss: What to minimise, and how many blocks' logits may exist at once.
        target: Needed where `loss.needs_target`.

    Returns:
        The loss with gradient, and statistics that add over chunks, micro-batches and ranks.

    Raises:
        ValueError: If the objective needs the target's states and got none.
    """
    counted = supervised.any(dim=-1)
    supervised, block_scale = supervised[counted], block_scale[counted]
    # Filled before the head, because 0 * NaN in its backward pass would still be NaN.
    hidden = hidden[counted].masked_fill(~supervised.unsqueeze(-1), 0)
    labels = labels[counted].masked_fill(~supervised, 0)
    states, rows = None, torch.zeros_like(labels)
    if loss.needs_target:
        if target is None:
            raise ValueError("this objective needs the target's states, got none. Pass `target`.")
        states, rows = target.states, target.rows[counted].masked_fill(~supervised, 0)

    per_block = (hidden.detach(), labels, supervised, block_scale, rows)
    parts = zip(*(torch.split(part, loss.blocks_per_chunk) for part in per_block), strict=True)
    learned = _Learned(hidden, head_weight)
    values = []
    statistics = ObjectiveStatistics.zero(hidden.shape[1], hidden.device)
    # Without a counted block there is one empty chunk, so the loss still has a graph.
    for part in parts:
        value, sums = learned.add(_Chunk(*part), states, loss)
        values.append(value)
        statistics = statistics + sums
    return learned.attach(torch.stack(values).sum()), statistics


class _Learned:
    """Gradients of the loss so far, for those of its two inputs that are learned.

    The factors of all blocks are known before the first forward pass, so a chunk's gradient need
    not wait for the other chunks: once it is there, the chunk's logits are gone. Recomputing them
    in the backward pass would cost a third product with the LM head.
    """

    def __init__(self, hidden: Tensor, head_weight: Tensor) -> None:
        self._hidden, self._head = hidden, head_weight
        self._of_hidden: list[Tensor] = []
        self._of_head = torch.zeros_like(head_weight) if head_weight.requires_grad else None

    def add(
        self, chunk: "_Chunk", states: Float[Tensor, "tokens hidden"] | None, loss: LossConfig
    ) -> tuple[Float[Tensor, ""], ObjectiveStatistics]:
        """Work out loss and gradients of the next chunk."""
        chunk.hidden.requires_grad_(self._hidden.requires_grad)
        head = self._head.detach().requires_grad_(self._of_head is not None)
        value, statistics = _chunk_objective(chunk, head, states, loss)
        inputs = [tensor for tensor in (chunk.hidden, head) if tensor.requires_grad]
        if inputs:
            gradients = list(torch.autograd.grad(value, inputs))
            if self._of_head is not None:
                self._of_head += gradients.pop()
            self._of_hidden += gradients
        return value.detach(), statistics

    def attach(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The loss with its gradients, for autograd to go on from."""
        of_hidden = torch.cat(self._of_hidden) if self._of_hidden else None
        total: Tensor = _KnownGradient.apply(  # type: ignore[no-untyped-call]  # torch has no types
            self._hidden, self._head, value, of_hidden, self._of_head
        )
        return total


class _KnownGradient(torch.autograd.Function):
    """A number whose gradients with respect to two tensors have been worked out already."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch gives it no type)
        _hidden: Tensor,
        _head_weight: Tensor,
        value: Tensor,
        of_hidden: Tensor | None,
        of_head: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(of_hidden, of_head)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        scaled = [None if known is None else outer * known for known in ctx.saved_tensors]
        return (*scaled, None, None, None)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A few counted blocks."""

    hidden: Float[Tensor, "blocks positions hidden"]
    labels: Int[Tensor, "blocks positions"]
    supervised: Bool[Tensor, "blocks positions"]
    scale: Float[Tensor, " blocks"]
    rows: Int[Tensor, "blocks positions"]


def _chunk_objective(
    chunk: _Chunk,
    head_weight: Float[Tensor, "vocab hidden"],
    states: Float[Tensor, "tokens hidden"] | None,
    loss: LossConfig,
) -> tuple[Float[Tensor, ""], ObjectiveStatistics]:
    if loss.ends_at_first_error:
        chunk, logits = _until_first_error(chunk, head_weight)
    else:
        logits = chunk.hidden[chunk.supervised] @ head_weight.T
    predictions = predict(
        logits,
        chunk.labels[chunk.supervised],
        chunk.supervised,
        None if states is None else _target_distributions(chunk, head_weight, states, loss),
        temperature=loss.temperature,
    )
    weights = position_weights(predictions, loss)
    token_loss = TOKEN_LOSSES[loss.token_loss].function(predictions, loss)
    token_loss = token_loss.masked_fill(~chunk.supervised, 0)
    joint = JOINT_TERMS[loss.joint].function(predictions, loss)
    block_losses = (weights * token_loss).sum(dim=-1)
    block_losses = block_losses + loss.resolved_joint_scale * joint
    total = (chunk.scale.to(block_losses.dtype) * block_losses).sum()
    with torch.no_grad():
        statistics = ObjectiveStatistics.of(
            predictions,
            weights=weights,
            token_loss=token_loss,
            joint=joint,
            with_overlap=loss.needs_overlap,
        )
    return total, statistics


@torch.no_grad()
def _target_distributions(
    chunk: _Chunk,
    head_weight: Float[Tensor, "vocab hidden"],
    states: Float[Tensor, "tokens hidden"],
    loss: LossConfig,
) -> TargetDistributions:
    tokens, rows = chunk.rows[chunk.supervised].unique(return_inverse=True)
    logits = states[tokens].to(head_weight.dtype) @ head_weight.T
    return TargetDistributions.of(logits, rows, temperature=loss.temperature)


def _until_first_error(
    chunk: _Chunk, head_weight: Float[Tensor, "vocab hidden"]
) -> tuple[_Chunk, Float[Tensor, "drafts vocab"]]:
    """The chunk with its blocks supervised up to the first wrong draft, and the logits there.

    Only the argmax of the other logits is taken: they take part in no loss and no backward pass.
    """
    with torch.no_grad():
        logits = chunk.hidden[chunk.supervised] @ head_weight.T
        # Widened, because torch's argmax of 16-bit numbers on a CPU is many times slower.
        is_right = widened(logits).argmax(dim=-1) == chunk.labels[chunk.supervised]
        settled = until_first_error(placed(is_right, chunk.supervised), chunk.supervised)
        kept = logits[settled[chunk.supervised]]
    known: Tensor = _KnownProduct.apply(  # type: ignore[no-untyped-call]  # torch has no types
        chunk.hidden[settled], head_weight, kept
    )
    return replace(chunk, supervised=settled), known


class _KnownProduct(torch.autograd.Function):
    """`hidden @ head_weight.T` that has been worked out already, with its gradients."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch gives it no type)
        hidden: Tensor,
        head_weight: Tensor,
        product: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(hidden, head_weight)
        return product.view_as(product)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        hidden, head_weight = ctx.saved_tensors
        of_hidden = of_head = None
        # In the product's own format, which under autocast is not that of its factors.
        if ctx.needs_input_grad[0]:
            of_hidden = (outer @ head_weight.to(outer.dtype)).to(hidden.dtype)
        if ctx.needs_input_grad[1]:
            of_head = (outer.T @ hidden.to(outer.dtype)).to(head_weight.dtype)
        return of_hidden, of_head, None
