"""Some rows of a batch as a batch of their own, so that a drafter runs on its own requests only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from vllm.v1.attention.backend import CommonAttentionMetadata

DraftRows = Callable[[int, Sequence[int]], torch.Tensor]
"""Drafts of some rows with the drafter of a slot: `[rows, positions]`."""


@dataclass(frozen=True, slots=True)
class DraftInputs:
    """What a proposer reads of one step.

    Attributes:
        token_ids: Tokens of the step, all requests after one another: `[tokens]`.
        positions: Their positions: `[tokens]`, or `[3, tokens]` where the target's rotation has
            three axes.
        hidden_states: The target's hidden states of them: `[tokens, layers * hidden]`.
        next_token_ids: Token that each block starts with: `[requests]`.
        num_rejected: Rejected tokens at the end of each request's: `[requests]`, or none.
        attention: Lengths, block tables and slots of the requests.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    hidden_states: torch.Tensor
    next_token_ids: torch.Tensor
    num_rejected: torch.Tensor | None
    attention: CommonAttentionMetadata

    @property
    def num_requests(self) -> int:
        """Number of rows."""
        return int(self.attention.batch_size())

    @property
    def num_tokens(self) -> list[int]:
        """Tokens of each request in this step."""
        counts: list[int] = self.attention.query_start_loc_cpu.diff().tolist()
        return counts

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence after this step, at most: its drafts may not all be accepted."""
        bound = self.attention.seq_lens_cpu_upper_bound
        if bound is None:
            return [self.attention.max_seq_len] * self.num_requests
        lengths: list[int] = bound[: self.num_requests].tolist()
        return lengths

    @property
    def text_positions(self) -> torch.Tensor:
        """Positions in the sequence, as the drafter counts them: `[tokens]`."""
        return self.positions if self.positions.dim() == 1 else self.positions[0]

    def first_positions(self) -> torch.Tensor:
        """Position of each request's first token in this step: `[requests]`."""
        return self.text_positions[self.attention.query_start_loc[: self.num_requests].long()]

    def select(self, rows: Sequence[int]) -> "DraftInputs":
        """The given rows, in that order; the same object if they are all rows.

        Args:
            rows: Indices of requests, rising.
        """
        if len(rows) == self.num_requests:
            return self
        device = self.token_ids.device
        starts = self.attention.query_start_loc_cpu.tolist()
        lengths = [starts[row + 1] - starts[row] for row in rows]
        tokens = torch.cat([torch.arange(starts[row], starts[row + 1]) for row in rows])
        # Without blocking: what is copied was just made on the host and nobody writes to it.
        token_index = tokens.to(device, non_blocking=True)
        row_index = torch.tensor(rows).to(device, non_blocking=True)
        return DraftInputs(
            token_ids=self.token_ids[token_index],
            positions=self.positions[..., token_index],
            hidden_states=self.hidden_states[token_index],
            next_token_ids=self.next_token_ids[row_index],
            num_rejected=None if self.num_rejected is None else self.num_rejected[row_index],
            attention=_select(self.attention, rows, lengths, row_index, token_index),
        )


def draft_by_slot(
    draft: DraftRows,
    served_by: Sequence[int],
    rows: Sequence[int],
    *,
    num_draft_tokens: int,
    device: torch.device,
) -> torch.Tensor:
    """Drafts of a batch, each row by the slot that serves it: `[requests, positions]`.

    Args:
        draft: Drafts some rows.
        served_by: Slot of each request.
        rows: Rows to draft for, rising; the others are zeros.
        num_draft_tokens: Positions of a block.
        device: Where they are.
    """
    rows_of: dict[int, list[int]] = {}
    for row in rows:
        rows_of.setdefault(served_by[row], []).append(row)
    parts = [draft(slot, its_rows) for slot, its_rows in sorted(rows_of.items())]
    if len(parts) == 1 and len(rows) == len(served_by):
        return parts[0]
    drafts = torch.zeros(len(served_by), num_draft_tokens, dtype=torch.int64, device=device)
    if parts:
        order = [row for _, its_rows in sorted(rows_of.items()) for row in its_rows]
        drafts[torch.tensor(order).to(device, non_blocking=True)] = torch.cat(parts)
    return drafts


def _select(
    whole: CommonAttentionMetadata,
    rows: Sequence[int],
    lengths: Sequence[int],
    row_index: torch.Tensor,
    token_index: torch.Tensor,
) -> CommonAttentionMetadata:
    # The fields that the DFlash proposer reads; it builds the metadata of its own forward anew.
    starts = torch.zeros(len(rows) + 1, dtype=whole.query_start_loc_cpu.dtype)
    starts[1:] = torch.tensor(lengths).cumsum(0)
    bound = whole.seq_lens_cpu_upper_bound
    return CommonAttentionMetadata(
        query_start_loc=starts.to(row_index.device, non_blocking=True),
        query_start_loc_cpu=starts,
        seq_lens=whole.seq_lens[row_index],
        num_reqs=len(rows),
        num_actual_tokens=sum(lengths),
        max_query_len=max(lengths),
        max_seq_len=whole.max_seq_len if bound is None else int(bound[list(rows)].max()),
        block_table_tensor=whole.block_table_tensor[row_index],
        slot_mapping=whole.slot_mapping[token_index],
        causal=whole.causal,
        seq_lens_cpu_upper_bound=None if bound is None else bound[list(rows)],
    )
