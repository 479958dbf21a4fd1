"""Drafts as bytes: small while a worker keeps them, and cheap to send to the API process."""

from array import array
from collections.abc import Mapping
from struct import Struct

PackedDrafts = dict[int, bytes]
"""By slot: 4-byte integers; of each draft its anchor's position, its length, and its tokens."""

TakenDrafts = dict[int, list[tuple[int, list[int]]]]
"""By slot: position of each anchor in its sequence, and what was drafted after it."""

HEAD = Struct("=ii")
"""Position of the anchor and number of tokens, in front of each draft."""


def unpacked(packed: Mapping[int, bytes]) -> TakenDrafts:
    """The drafts as numbers, in the order of their steps."""
    return {slot: _drafts_of(numbers) for slot, numbers in packed.items()}


def _drafts_of(packed: bytes) -> list[tuple[int, list[int]]]:
    numbers = array("i", packed).tolist()
    drafts, start = [], 0
    while start < len(numbers):
        position, length = numbers[start : start + 2]
        start += 2 + length
        drafts.append((position, numbers[start - length : start]))
    return drafts
