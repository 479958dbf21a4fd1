"""AcceptanceView: what the routes that read ask of an engine's recorder."""

from typing import Any, Protocol


class AcceptanceView(Protocol):
    """What was counted since the server started."""

    def snapshot(self, num_records: int, *, shows_ids: bool = False) -> dict[str, Any]:
        """The champion, all sums, and the newest records, oldest first.

        Args:
            num_records: How many records.
            shows_ids: Whether records have the requests' ids, or hashes in their place.
        """

    def records_after(self, sequence: int, limit: int, *, shows_ids: bool) -> dict[str, Any]:
        """The records that follow a number, counted or excluded, oldest first.

        Args:
            sequence: Number of the last one that the reader has; 0 before the first.
            limit: How many at most.
            shows_ids: Whether records have the requests' ids, or hashes in their place.
        """

    def history(self) -> dict[str, Any]:
        """How the sums have grown."""
