"""Anchors: where the blocks of one document start, and what they are to predict.

A block is an anchor, a real token, and `block_size - 1` draft positions; draft position k predicts
the token k places after the anchor.
"""

import hashlib

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def anchor_generator(seed: int, epoch: int, document_id: int | str) -> torch.Generator:
    """Random source of one document's anchors in one epoch, whichever rank or batch it is in."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{document_id}".encode()).digest()
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return generator


def anchor_candidates(
    loss_mask: Bool[Tensor, " tokens"], *, block_size: int, allow_tail: bool
) -> Int[Tensor, " anchors"]:
    """All positions of one document where a block may start, in order.

    The anchor is in the loss region, at least one token that its block predicts is too, and the
    block ends inside the document.

    Args:
        loss_mask: True for the tokens to learn from.
        block_size: Positions of a block, anchor included.
        allow_tail: Let the last blocks run out of the document; what lies outside is unsupervised.
    """
    num_tokens = loss_mask.shape[0]
    supervised_before = torch.zeros(num_tokens + 1, dtype=torch.int64)
    supervised_before[1:] = loss_mask.cumsum(dim=0)
    starts = torch.arange(num_tokens)
    ends = (starts + block_size).clamp_max(num_tokens)
    num_supervised = supervised_before[ends] - supervised_before[starts + 1]
    is_candidate = loss_mask & (num_supervised > 0)
    if not allow_tail:
        is_candidate &= starts + block_size <= num_tokens
    return is_candidate.nonzero().squeeze(-1)


def sample_anchors(
    loss_mask: Bool[Tensor, " tokens"],
    *,
    block_size: int,
    num_anchors: int | None,
    generator: torch.Generator,
    allow_tail: bool,
) -> Int[Tensor, " anchors"]:
    """Draw anchors of one document without replacement, in order; none if it has no candidate.

    Args:
        loss_mask: True for the tokens to learn from.
        block_size: Positions of a block, anchor included.
        num_anchors: Most anchors to draw; None takes every candidate and draws nothing.
        generator: Random source, see `anchor_generator`.
        allow_tail: Let the last blocks run out of the document; what lies outside is unsupervised.
    """
    candidates = anchor_candidates(loss_mask, block_size=block_size, allow_tail=allow_tail)
    if num_anchors is None:
        return candidates
    order = torch.randperm(len(candidates), generator=generator)
    return candidates[order[:num_anchors]].sort().values


def block_targets(
    token_ids: Int[Tensor, " tokens"],
    loss_mask: Bool[Tensor, " tokens"],
    anchors: Int[Tensor, " blocks"],
    *,
    block_size: int,
) -> tuple[Int[Tensor, "blocks positions"], Bool[Tensor, "blocks positions"]]:
    """Labels of the draft positions of one document's blocks, and which are supervised.

    A position outside the document is unsupervised and has label 0.
    """
    positions = anchors.unsqueeze(-1) + torch.arange(1, block_size)
    is_inside = positions < token_ids.shape[0]
    inside = positions.masked_fill(~is_inside, 0)
    labels = token_ids[inside].masked_fill(~is_inside, 0)
    return labels, loss_mask[inside] & is_inside


def covered_tokens(
    loss_mask: Bool[Tensor, " tokens"], anchors: Int[Tensor, " blocks"], *, block_size: int
) -> int:
    """Number of tokens to learn from that at least one block of a document predicts."""
    positions = (anchors.unsqueeze(-1) + torch.arange(1, block_size)).flatten()
    is_predicted = torch.zeros_like(loss_mask)
    is_predicted[positions[positions < loss_mask.shape[0]]] = True
    return int((is_predicted & loss_mask).sum())
