"""What a request carries to the worker: which slot drafts for it, and which ones shadow it.

The API process decides it when the request arrives and writes it over whatever a client may have
put there; the worker only obeys. Requests without it, as those of an offline engine, are served by
slot 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BINDING = "dpace"
"""Key in the sampling parameters' extra arguments; a list of the request's key and its slots."""

NO_KEY = -1
_MIN_VALUES = 2


@dataclass(frozen=True, slots=True)
class RowBinding:
    """Slots that draft for one request.

    Attributes:
        key: Number under which its shadow drafts are kept.
        serving: Slot whose drafts are verified.
        shadows: Slots whose drafts are only kept.
    """

    key: int
    serving: int
    shadows: tuple[int, ...]

    def to_list(self) -> list[int]:
        """The form in which it travels."""
        return [self.key, self.serving, *self.shadows]


PLAIN = RowBinding(NO_KEY, 0, ())


def binding_of(extra_args: Mapping[str, Any] | None, *, num_slots: int) -> RowBinding:
    """The binding that a request carries; the plain one where it carries none.

    An engine without our API process takes what its users put there: a slot that does not exist
    would end it for all of them.

    Args:
        extra_args: The extra arguments of its sampling parameters.
        num_slots: Slots of this engine, from 0.
    """
    values = (extra_args or {}).get(BINDING)
    if not isinstance(values, list) or len(values) < _MIN_VALUES:
        return PLAIN
    if any(type(value) is not int for value in values):
        return PLAIN
    key, serving, *shadows = values
    if not 0 <= serving < num_slots:
        serving = PLAIN.serving
    known = [slot for slot in dict.fromkeys(shadows) if 0 <= slot < num_slots and slot != serving]
    return RowBinding(key, serving, tuple(known))
