"""Shadow drafts of requests that still run, kept in the worker until their answer is finished.

A shadow drafts wherever the drafter in service does, but not everything that is drafted comes to
verification: a request may be preempted, or end. The request's next step tells: it starts at the
block's anchor and holds the drafts, or the block was never verified. Only what was is handed out,
cut to as many tokens as were verified, so that a shadow has exactly the steps that were served.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

MAX_REQUESTS = 8192
"""Requests whose drafts are kept at a time; beyond it the oldest are forgotten."""

TakenDrafts = dict[int, list[tuple[int, list[int]]]]
"""By slot: position of each anchor in its sequence, and what was drafted after it."""


@dataclass(frozen=True, slots=True)
class _Block:
    slot: int
    position: torch.Tensor
    tokens: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Verified:
    """A block, and the next step of its request: where it started and how much it verified."""

    block: _Block
    start: torch.Tensor
    num_drafts: int


@dataclass(slots=True)
class _Drafts:
    newest: list[_Block] = field(default_factory=list)
    verified: list[_Verified] = field(default_factory=list)


class DraftLog:
    """Drafts by request. They stay on the device until they are taken: a step never waits."""

    def __init__(self, max_requests: int = MAX_REQUESTS) -> None:
        """Start empty.

        Args:
            max_requests: Requests to keep at a time.
        """
        self._max_requests = max_requests
        self._drafts: dict[int, _Drafts] = {}

    def __len__(self) -> int:
        """Number of requests that have drafts here."""
        return len(self._drafts)

    def add(
        self, slot: int, keys: Sequence[int], positions: torch.Tensor, drafts: torch.Tensor
    ) -> None:
        """Keep one step's drafts.

        Args:
            slot: Who drafted.
            keys: The requests, one per row.
            positions: Position of each row's anchor: `[rows]`.
            drafts: What was drafted: `[rows, positions]`.
        """
        for row, key in enumerate(keys):
            if key not in self._drafts and len(self._drafts) >= self._max_requests:
                del self._drafts[next(iter(self._drafts))]
            block = _Block(slot, positions[row], drafts[row])
            self._drafts.setdefault(key, _Drafts()).newest.append(block)

    def begin_step(
        self, keys: Sequence[int], starts: torch.Tensor, num_tokens: Sequence[int]
    ) -> None:
        """Keep or forget what was drafted last for the requests of a step, before it is drafted.

        Args:
            keys: The requests, one per row.
            starts: Position of each row's first token: `[rows]`.
            num_tokens: Tokens of each row: an anchor and its drafts, or tokens of a prompt.
        """
        for row, key in enumerate(keys):
            drafts = self._drafts.get(key)
            if drafts is None:
                continue
            if num_tokens[row] > 1:
                # A row that reads a prompt again is told by its start, once that is on the host.
                drafts.verified.extend(
                    _Verified(block, starts[row], num_tokens[row] - 1) for block in drafts.newest
                )
            drafts.newest = []

    def take(self, keys: Iterable[int]) -> dict[int, TakenDrafts]:
        """Hand out, and forget, what was verified of these requests; unknown ones are left out."""
        return {
            key: _to_host(self._drafts.pop(key).verified) for key in keys if key in self._drafts
        }


def _to_host(verified: Sequence[_Verified]) -> TakenDrafts:
    if not verified:
        return {}
    positions = torch.stack([each.block.position for each in verified]).tolist()
    starts = torch.stack([each.start for each in verified]).tolist()
    # One copy for each draft length: lengths differ only where the engine varies them.
    by_length: dict[int, list[int]] = {}
    for index, each in enumerate(verified):
        by_length.setdefault(each.block.tokens.shape[0], []).append(index)
    tokens: dict[int, list[int]] = {}
    for indices in by_length.values():
        rows = torch.stack([verified[index].block.tokens for index in indices]).tolist()
        tokens.update(zip(indices, rows, strict=True))
    taken: TakenDrafts = {}
    for index, each in enumerate(verified):
        if positions[index] == starts[index]:
            drafted = (positions[index], tokens[index][: each.num_drafts])
            taken.setdefault(each.block.slot, []).append(drafted)
    return taken
