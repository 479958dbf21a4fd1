"""RecordBook: where records of ended requests are kept, counted and shown, whatever the engine."""

import logging
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any

from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.live.fleet import Fleet
from dpace_serve.live.record_ring import RecordRing, shown_row
from dpace_serve.metrics.exporter import AcceptanceMetrics
from dpace_serve.metrics.labels import ExportStage

logger = logging.getLogger(__name__)

MAX_RECORDS = 256
"""Ended requests kept for `GET /dpace/acceptance?records=`."""
_BOOT_BYTES = 8

Keep = Callable[[RequestAcceptance], None]


class RecordBook:
    """Keeps records, counts them, and shows both."""

    def __init__(
        self, fleet: Fleet, metrics: AcceptanceMetrics, *, method: str, keep: tuple[Keep, ...] = ()
    ) -> None:
        """Start with nothing recorded.

        Args:
            fleet: Whose champion is shown.
            metrics: Where records are counted.
            method: The engine's name of the speculation method.
            keep: Further places that every record goes to.
        """
        self._fleet = fleet
        self._metrics = metrics
        self._method = method
        self._keep = keep
        self._records: deque[RequestAcceptance] = deque(maxlen=MAX_RECORDS)
        self._ring = RecordRing(secrets.token_hex(_BOOT_BYTES))
        self._has_failed = False

    def snapshot(self, num_records: int, *, shows_ids: bool = False) -> dict[str, Any]:
        """The champion, all sums, and the newest records that are counted, oldest first.

        Args:
            num_records: How many records.
            shows_ids: Whether records have the requests' ids, or hashes in their place.
        """
        newest = list(self._records)[max(0, len(self._records) - num_records) :]
        champion, sums = self._fleet.champion, self._metrics.snapshot()
        return {
            "drafter": {
                "name": champion.name,
                "revision": champion.revision,
                "arm": "champion",
                "method": self._method,
                "block_size": champion.block_size,
                "num_draft_tokens": sums["num_draft_tokens"],
            },
            **sums,
            "records": [shown_row(record, shows_id=shows_ids) for record in newest],
        }

    def records_after(self, sequence: int, limit: int, *, shows_ids: bool) -> dict[str, Any]:
        """The records of all drafters that follow a number, counted or excluded; see RecordRing."""
        return self._ring.after(sequence, limit, shows_ids=shows_ids)

    def history(self) -> dict[str, Any]:
        """How the sums have grown."""
        return self._metrics.history()

    def add(self, record: RequestAcceptance) -> bool:
        """Keep a record, then count it; whether it was counted."""
        self._ring.append(record)
        for keep in self._keep:
            keep(record)
        try:
            if record.excluded is None:
                self._metrics.observe(record)
                self._records.append(record)
            else:
                self._metrics.exclude(record)
        except Exception as error:  # noqa: BLE001  (no answer may fail over its statistics)
            self.lose("observe", error)
            return False
        return True

    def lose(self, stage: ExportStage, error: Exception) -> None:
        """Count a record that was lost in our own code."""
        self._metrics.export_error(stage)
        self.log_first(error)

    def log_first(self, error: Exception) -> None:
        """Say why a request could not be counted, once for all that follow."""
        if not self._has_failed:
            self._has_failed = True
            logger.error(
                "a finished request could not be counted (%s); more are only counted, in "
                "dpace_export_errors_total",
                error,
                exc_info=error,
            )
