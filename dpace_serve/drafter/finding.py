"""Finding: what one named check of a drafter came to."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's outcome; `ok` with a cure is a note: it serves, but look at it."""

    check: str
    ok: bool
    message: str
    cure: str = ""
    """What to do; empty where nothing is, or where the message already says it."""

    @property
    def is_note(self) -> bool:
        """Whether this stops nothing, yet deserves a look."""
        return self.ok and bool(self.cure)

    def line(self) -> str:
        """Message and cure as one line."""
        return f"{self.message} {self.cure}".strip()
