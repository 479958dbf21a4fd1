"""Joint terms: what a whole block costs beside the losses of its positions.

Both published ones are the expected number of accepted drafts, as a share of the block and with its
sign turned; they differ in what a position's chance of acceptance is taken to be. Their gradient
runs through the whole product, so it vanishes while the first positions are wrong: they need a
token loss beside them, or a drafter that is trained already.

A joint term of one's own is one function and one line in `JOINT_TERMS`: `joint: mine` then trains
with it. `JointTerm` says what the line may add. Blocks without a supervised position never get
here.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dpace_training.losses.config import NO_JOINT_TERM, LossConfig
from dpace_training.losses.part import JointTerm
from dpace_training.losses.predictions import BlockPredictions
from dpace_training.losses.token_loss import SMALLEST_OVERLAP

BlockCost = Float[Tensor, " blocks"]


def expected_accepted(
    log_acceptance: Float[Tensor, "blocks positions"],
    supervised: Bool[Tensor, "blocks positions"],
) -> Float[Tensor, " blocks"]:
    """Expected number of accepted drafts, if each position's chance is known.

    Args:
        log_acceptance: Log of the chance that a position is accepted once all before it were.
        supervised: Other positions neither count nor end the chain.
    """
    chain = log_acceptance.masked_fill(~supervised, 0).cumsum(dim=-1).exp()
    return (chain * supervised).sum(dim=-1)


def label_chain(predictions: BlockPredictions, loss: LossConfig) -> BlockCost:  # noqa: ARG001 (one table, one form)
    """Minus the expected share of accepted drafts by the probability of the labels.

    Source:
        Chain loss, arXiv 2606.11552.
    """
    return _negative_share(-predictions.cross_entropy, predictions.supervised)


def overlap_chain(predictions: BlockPredictions, loss: LossConfig) -> BlockCost:  # noqa: ARG001 (one table, one form)
    """Minus the expected share of accepted drafts by the overlap with the target.

    Source:
        Expected tau, arXiv 2606.12370 and 2608.30135.
    """
    overlap = predictions.require_agreement().overlap.clamp_min(SMALLEST_OVERLAP)
    return _negative_share(overlap.log(), predictions.supervised)


def _nothing(predictions: BlockPredictions, loss: LossConfig) -> BlockCost:  # noqa: ARG001 (one table, one form)
    return torch.zeros_like(predictions.cross_entropy[:, 0])


def _negative_share(
    log_acceptance: Float[Tensor, "blocks positions"],
    supervised: Bool[Tensor, "blocks positions"],
) -> Float[Tensor, " blocks"]:
    num_supervised = supervised.sum(dim=-1).clamp_min(1)
    return -expected_accepted(log_acceptance, supervised) / num_supervised


JOINT_TERMS: dict[str, JointTerm[Callable[[BlockPredictions, LossConfig], BlockCost]]] = {
    NO_JOINT_TERM: JointTerm(_nothing, looks_ahead=False, default_scale=0.0),
    "chain": JointTerm(label_chain, default_scale=40.0),
    "expected_tau": JointTerm(overlap_chain, compares="overlap"),
}
