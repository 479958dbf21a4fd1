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

    def history(self) -> dict[str, Any]:
        """How the sums have grown."""
