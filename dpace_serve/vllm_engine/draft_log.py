"""Shadow drafts of requests that still run, kept in the worker until their answer is finished.

A shadow drafts wherever the drafter in service does, but not everything that is drafted comes to
verification: a request may be preempted, or end. The request's next step tells: it starts at the
block's anchor and holds the drafts, or the block was never verified. Only what was is handed out,
cut to as many tokens as were verified, so that a shadow has exactly the steps that were served.

A step only notes where in its tensors the rows of its requests are. Every few steps those tensors
go to the host at once, and one batch later, when they have long arrived, each request gets its own
rows of them: the device never keeps more than the last steps, and a long request only its own rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from dpace_serve.vllm_engine.packed_drafts import HEAD, PackedDrafts, TakenDrafts

__all__ = ["DraftLog", "PackedDrafts", "TakenDrafts"]

MAX_REQUESTS = 8192
"""Requests whose drafts are kept at a time; beyond it the oldest are forgotten."""

STEPS_PER_BATCH = 16
"""Steps whose tensors go to the host together."""

MAX_TAKEN_BYTES = 4 << 20
"""What is handed out at a time: no step waits for more to be copied and sent."""


class _Batch:
    """Tensors of some steps, one behind the other, on the device or on their way to the host."""

    def __init__(self) -> None:
        self.length = 0
        self._parts: list[torch.Tensor] = []
        self._host: torch.Tensor | None = None
        self._arrived: torch.cuda.Event | None = None
        self._numbers: memoryview | None = None

    def put(self, tensor: torch.Tensor) -> int:
        """Append a tensor's numbers; returns where they start."""
        start = self.length
        self._parts.append(tensor.reshape(-1).to(torch.int32))
        self.length += tensor.numel()
        return start

    def send(self) -> None:
        """Begin to copy everything to the host; nothing may be appended any more."""
        whole = torch.cat(self._parts) if self._parts else torch.empty(0, dtype=torch.int32)
        self._parts = []
        if not whole.is_cuda:
            self._host = whole.cpu()
            return
        self._host = torch.empty(whole.shape, dtype=whole.dtype, pin_memory=True)
        self._host.copy_(whole, non_blocking=True)
        self._arrived = torch.cuda.Event()
        self._arrived.record()

    def numbers(self) -> memoryview:
        """The numbers on the host, once they have arrived there."""
        if self._numbers is None:
            if self._host is None:
                raise ValueError("a batch must be sent before it is read")
            if self._arrived is not None:
                self._arrived.synchronize()
            self._numbers = self._host.numpy().data
        return self._numbers


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """What one slot drafted in one step: positions of the anchors, then the drafts, in a batch."""

    slot: int
    batch: _Batch
    start: int
    num_rows: int
    length: int


@dataclass(slots=True, eq=False)
class _Drafts:
    """Drafts of a request: the newest by their step and row, and those that were verified."""

    steps: list[_Step] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    verified: dict[int, bytearray] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Verified:
    """Rows of a step whose requests came to another: which, where it started, what it verified.

    Lists side by side, and no object for each row: thousands of them every second would have the
    collector of garbage walk through the whole process.
    """

    step: _Step
    batch: _Batch
    drafts: list[_Drafts] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    num_drafts: list[int] = field(default_factory=list)

    def settle(self) -> None:
        """Give each request its own draft, where it was verified."""
        step, numbers, starts = self.step, self.step.batch.numbers(), self.batch.numbers()
        for drafts, row, start, num_drafts in zip(
            self.drafts, self.rows, self.starts, self.num_drafts, strict=True
        ):
            position = numbers[step.start + row]
            if starts[start] != position:
                continue
            length = min(num_drafts, step.length)
            begin = step.start + step.num_rows + row * step.length
            kept = drafts.verified.setdefault(step.slot, bytearray())
            kept += HEAD.pack(position, length)
            kept += numbers[begin : begin + length]


class DraftLog:
    """Drafts by request. A step never waits for the device."""

    def __init__(self, max_requests: int = MAX_REQUESTS) -> None:
        """Start empty.

        Args:
            max_requests: Requests to keep at a time.
        """
        self._max_requests = max_requests
        self._drafts: dict[int, _Drafts] = {}
        self._batch = _Batch()
        self._num_steps = 0
        self._waiting: list[_Verified] = []
        self._sent: list[_Verified] = []

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
        start = self._batch.put(positions)
        self._batch.put(drafts)
        step = _Step(slot, self._batch, start, len(keys), drafts.shape[1])
        for row, key in enumerate(keys):
            if key not in self._drafts:
                if len(self._drafts) >= self._max_requests:
                    del self._drafts[next(iter(self._drafts))]
                self._drafts[key] = _Drafts()
            self._drafts[key].steps.append(step)
            self._drafts[key].rows.append(row)

    def begin_step(
        self, keys: Sequence[int], starts: torch.Tensor, num_tokens: Sequence[int]
    ) -> None:
        """Keep or forget what was drafted last for the requests of a step, before it is drafted.

        Args:
            keys: The requests, one per row.
            starts: Position of each row's first token: `[rows]`.
            num_tokens: Tokens of each row: an anchor and its drafts, or tokens of a prompt.
        """
        first = self._batch.put(starts)
        verified: dict[_Step, _Verified] = {}
        for row, key in enumerate(keys):
            drafts = self._drafts.get(key)
            if drafts is None:
                continue
            if num_tokens[row] > 1:
                # A row that reads a prompt again is told by its start, once that is on the host.
                for step, its_row in zip(drafts.steps, drafts.rows, strict=True):
                    if step not in verified:
                        verified[step] = _Verified(step, self._batch)
                    those = verified[step]
                    those.drafts.append(drafts)
                    those.rows.append(its_row)
                    those.starts.append(first + row)
                    those.num_drafts.append(num_tokens[row] - 1)
            drafts.steps.clear()
            drafts.rows.clear()
        self._waiting.extend(verified.values())
        self._num_steps += 1
        if self._num_steps >= STEPS_PER_BATCH:
            self._send()

    def take(
        self, keys: Iterable[int], *, max_bytes: int = MAX_TAKEN_BYTES
    ) -> tuple[dict[int, PackedDrafts], list[int]]:
        """Hand out, and forget, what was verified of these requests; unknown ones are left out.

        Args:
            keys: The requests.
            max_bytes: Where to stop; the request that exceeds it is still handed out.

        Returns:
            The drafts by request, and the requests that are left to be asked for again.
        """
        known = [key for key in dict.fromkeys(keys) if key in self._drafts]
        if known:
            self._send()
            self._settle()
        taken: dict[int, PackedDrafts] = {}
        num_bytes = 0
        for index, key in enumerate(known):
            if num_bytes >= max_bytes:
                return taken, known[index:]
            verified = self._drafts.pop(key).verified
            taken[key] = {slot: bytes(drafts) for slot, drafts in verified.items()}
            num_bytes += sum(map(len, taken[key].values()))
        return taken, []

    def _send(self) -> None:
        """Give the rows of the batch before to their requests, and send this one."""
        self._settle()
        self._batch.send()
        self._sent, self._waiting = self._waiting, []
        self._batch, self._num_steps = _Batch(), 0

    def _settle(self) -> None:
        for verified in self._sent:
            verified.settle()
        self._sent = []
