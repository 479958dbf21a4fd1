"""Shadow drafts of requests that still run, kept in the worker until their answer is finished."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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


class DraftLog:
    """Drafts by request. They stay on the device until they are taken: a step never waits."""

    def __init__(self, max_requests: int = MAX_REQUESTS) -> None:
        """Start empty.

        Args:
            max_requests: Requests to keep at a time.
        """
        self._max_requests = max_requests
        self._blocks: dict[int, list[_Block]] = {}

    def __len__(self) -> int:
        """Number of requests that have drafts here."""
        return len(self._blocks)

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
            if key not in self._blocks and len(self._blocks) >= self._max_requests:
                del self._blocks[next(iter(self._blocks))]
            block = _Block(slot, positions[row], drafts[row])
            self._blocks.setdefault(key, []).append(block)

    def take(self, keys: Iterable[int]) -> dict[int, TakenDrafts]:
        """Hand out, and forget, the drafts of these requests; unknown ones are left out."""
        return {key: _to_host(self._blocks.pop(key)) for key in keys if key in self._blocks}


def _to_host(blocks: Sequence[_Block]) -> TakenDrafts:
    positions = torch.stack([block.position for block in blocks]).tolist()
    taken: TakenDrafts = {}
    # One copy for each draft length: lengths differ only where the engine varies them.
    by_length: dict[int, list[int]] = {}
    for index, block in enumerate(blocks):
        by_length.setdefault(block.tokens.shape[0], []).append(index)
    tokens: dict[int, list[int]] = {}
    for indices in by_length.values():
        rows = torch.stack([blocks[index].tokens for index in indices]).tolist()
        tokens.update(zip(indices, rows, strict=True))
    for index, block in enumerate(blocks):
        taken.setdefault(block.slot, []).append((positions[index], tokens[index]))
    return taken
