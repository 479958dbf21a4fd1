"""Where the groups of draft positions lie among the rows of a step, for the engines.

A step's rows are blocks of an anchor and its mask tokens, one after another, so a row's place in
its block says its group, whatever its position in the text.

The last group may lie beyond the drafts that are asked for: what no draft reaches has no place.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dpace_serve.drafter.specialists import Specialists


class Places(NamedTuple):
    """Rows of a step and their groups; a tuple, which compilers take apart.

    Attributes:
        group: Group of each row, the anchor's that of position 1: rows.
        place: Place of each row when all are sorted by group; an anchor shares that of its
            position 1: rows.
        rows: The row at each place, those of the first group first: groups * places.
    """

    group: Tensor
    place: Tensor
    rows: Tensor


class RowTable(NamedTuple):
    """What `Places` are cut from; holds for every step of at most that many rows.

    Attributes:
        group: Group of each row, the anchor's that of position 1.
        slot: Place of each row among those of its group; an anchor shares that of its position 1.
        rows: The rows of each group, in order: groups, places.
    """

    group: Tensor
    slot: Tensor
    rows: Tensor


@dataclass(frozen=True, slots=True)
class DraftGroups:
    """The groups of the blocks that a drafter may be asked for.

    Attributes:
        specialists: What the groups have of their own.
        longest: Draft tokens of the longest block.
        shortest: Draft tokens of the shortest one.
    """

    specialists: Specialists
    longest: int
    shortest: int

    @property
    def num_groups(self) -> int:
        """Groups that a draft can reach."""
        return self.specialists.num_groups(self.longest)

    def rows_per_group(self, num_tokens: int) -> int:
        """Rows that a group has at most among this many; depends on no step's own length.

        Blocks of the group's own size fill the first group most: shorter ones have fewer rows of
        it, longer ones more of other groups.
        """
        fullest = min(max(self.specialists.group_size, self.shortest), self.longest)
        num_blocks = (num_tokens + fullest) // (1 + fullest)
        return num_blocks * self._rows_of_a_block(fullest)

    def _rows_of_a_block(self, num_draft_tokens: int) -> int:
        """Rows of the first group in a block of this length; no other group has more."""
        return min(self.specialists.group_size, num_draft_tokens)

    def require_planned(self, num_draft_tokens: int) -> None:
        """Check that blocks of this length have their places.

        Raises:
            ValueError: If they are shorter or longer than planned.
        """
        if not self.shortest <= num_draft_tokens <= self.longest:
            raise ValueError(
                f"blocks must have {self.shortest}..{self.longest} draft tokens, got "
                f"{num_draft_tokens}."
            )

    def table(
        self, num_draft_tokens: int, *, num_rows: int, num_places: int, device: torch.device
    ) -> RowTable:
        """Groups of rows that are blocks of this many draft tokens.

        Args:
            num_draft_tokens: Length of every block, without its anchor.
            num_rows: Rows in all.
            num_places: Places of each group. Those that no row has hold one that is there, and
                nobody reads what they compute.
            device: Where the tensors are made.
        """
        size, block_size = self.specialists.group_size, 1 + num_draft_tokens
        room = self._rows_of_a_block(num_draft_tokens)
        row = torch.arange(num_rows, device=device)
        position = (row % block_size - 1).clamp(min=0)
        place = torch.arange(num_places, device=device)
        first = torch.arange(self.num_groups, device=device).unsqueeze(1) * size
        index = (1 + first + place % room).clamp(max=num_draft_tokens)
        return RowTable(
            group=position // size,
            slot=row // block_size * room + position % size,
            rows=place // room * block_size + index,
        )

    def places(self, table: RowTable, num_tokens: int) -> Places:
        """What a table says of a step with this many rows."""
        num_places = self.rows_per_group(num_tokens)
        group = table.group[:num_tokens]
        place = group * num_places + table.slot[:num_tokens]
        if self.shortest != self.longest:
            # Padding may end within a block, whose rows nobody reads and no room was made for.
            place = place.clamp(max=self.num_groups * num_places - 1)
        return Places(
            group=group,
            place=place,
            rows=table.rows[:, :num_places].clamp(max=num_tokens - 1).flatten(),
        )

    def adapted_groups(
        self, num_draft_tokens: int, *, num_rows: int, device: torch.device
    ) -> Tensor:
        """Group whose adapter a row gets, -1 for anchors, which get none: rows.

        Args:
            num_draft_tokens: Length of every block, without its anchor.
            num_rows: Rows in all.
            device: Where the tensor is made.
        """
        index = torch.arange(num_rows, device=device) % (1 + num_draft_tokens)
        # Floors towards minus infinity, so the anchor's -1 stays -1.
        return torch.div(index - 1, self.specialists.group_size, rounding_mode="floor")

    def shares(self, adapted_groups: Tensor) -> Tensor:
        """Whether a row belongs to the group of an adapter's inner value: rows, groups * rank.

        Args:
            adapted_groups: Group of each row, -1 for none: rows.
        """
        rank = self.specialists.rank
        # Not repeat_interleave, which waits for the device.
        of_values = torch.arange(self.num_groups * rank, device=adapted_groups.device) // rank
        return adapted_groups.unsqueeze(1) == of_values
