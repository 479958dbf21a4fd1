"""What an observer sees of a proposal: the tests compare it with what they compute themselves."""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class DraftStep:
    """One proposal for the requests of a step that were drafted for, as an observer sees it.

    Attributes:
        request_ids: The engine's names of the requests, one per row.
        taps: Target hidden states of the step's tokens, all requests after one another:
            `[tokens, layers * hidden]`. A request's rejected tokens are the last of its rows.
        tap_starts: Where each request's rows start, and the end: `[requests + 1]`.
        anchors: Token that each block starts with: `[requests]`.
        draft_tokens: What was drafted: `[requests, positions]`.
        logits: What it was drafted from: `[requests, positions, vocab]`.
    """

    request_ids: tuple[str, ...]
    taps: torch.Tensor
    tap_starts: torch.Tensor
    anchors: torch.Tensor
    draft_tokens: torch.Tensor
    logits: torch.Tensor


DraftObserver = Callable[[DraftStep], None]
