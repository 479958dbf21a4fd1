"""RecordRing: the newest records in order, for readers that must not miss one."""

import itertools
from collections import deque
from typing import Any

from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.acceptance.request_id import hashed_id

KEPT_RECORDS = 4096
"""Records kept: some ten seconds at hundreds of requests per second."""
KEPT_STEPS = 1 << 22
"""Verification steps kept in all of them, 16 bytes each, so that long answers fit in memory."""
MAX_READ = 64
"""Records of one answer, 2 ms of work: more would hold up the streams of a busy server."""
MAX_NUMBER = 2**53
"""No record ever has such a number; beyond it a reader in JavaScript could not tell two apart."""


class RecordRing:
    """Numbers every record from 1 and forgets the oldest, which its readers can see."""

    def __init__(self, boot: str) -> None:
        """Start without a record.

        Args:
            boot: Names this start of the server; the numbers begin again with the next one.
        """
        self._boot = boot
        self._records: deque[RequestAcceptance] = deque()
        self._num_steps = 0
        self._newest = 0

    def append(self, record: RequestAcceptance) -> None:
        """Keep a record, counted or excluded."""
        self._newest += 1
        self._records.append(record)
        self._num_steps += record.steps
        while len(self._records) > KEPT_RECORDS or self._num_steps > KEPT_STEPS:
            self._num_steps -= self._records.popleft().steps

    def after(self, sequence: int, limit: int, *, shows_ids: bool) -> dict[str, Any]:
        """The records that follow a number, oldest first, for JSON.

        `oldest` is the number of the oldest one kept, one more than `newest` where there is none: a
        reader whose next number is below it has missed those between.

        Args:
            sequence: Number of the last one that the reader has; 0 before the first.
            limit: How many at most.
            shows_ids: Whether records have the requests' ids, or hashes in their place.
        """
        oldest = self._newest - len(self._records) + 1
        start = max(0, sequence + 1 - oldest)
        rows = itertools.islice(self._records, start, start + limit)
        return {
            "boot": self._boot,
            "oldest": oldest,
            "newest": self._newest,
            "records": [
                {"sequence": oldest + start + index, **shown_row(record, shows_id=shows_ids)}
                for index, record in enumerate(rows)
            ],
        }


def shown_row(record: RequestAcceptance, *, shows_id: bool) -> dict[str, Any]:
    """A record for JSON, with its request's id or a hash in its place."""
    row = record.to_dict()
    return row if shows_id else row | {"request_id": hashed_id(record.request_id)}
