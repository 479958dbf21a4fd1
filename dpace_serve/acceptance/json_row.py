"""Values out of a row of JSON that somebody else wrote: the right keys and types, or an error."""

import sys
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

ChoiceT = TypeVar("ChoiceT", bound=str)


def require_keys(row: Mapping[str, Any], keys: Collection[str]) -> None:
    """Refuse a row that lacks a key or has one more.

    Raises:
        ValueError: If the keys are not exactly these.
    """
    missing = [key for key in keys if key not in row]
    unknown = [key for key in row if key not in keys]
    if missing or unknown:
        raise ValueError(
            f"a row must have exactly the keys {', '.join(keys)}; missing: {missing}, "
            f"unknown: {unknown}. Read it with the version that wrote it."
        )


def row_of(value: object) -> Mapping[str, Any]:
    """The value, which must be a row.

    Raises:
        ValueError: If it is no JSON object.
    """
    if not isinstance(value, dict):
        raise ValueError(  # noqa: TRY004 (what a caller catches is that the text is no row)
            f"a row must be a JSON object, got {value!r:.80}. Correct the line."
        )
    return value


def number(row: Mapping[str, Any], key: str) -> float:
    """The number under a key.

    Raises:
        ValueError: If it is none that a float can hold; true and false are none.
    """
    value = row[key]
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
        raise _wrong(key, "a finite number", value)
    return float(value)


def text(row: Mapping[str, Any], key: str) -> str:
    """The text under a key.

    Raises:
        ValueError: If it is none.
    """
    value = row[key]
    if not isinstance(value, str):
        raise _wrong(key, "text", value)
    return value


def choice(row: Mapping[str, Any], key: str, choices: tuple[ChoiceT, ...]) -> ChoiceT:
    """The choice under a key.

    Raises:
        ValueError: If it is outside `choices`.
    """
    value = row[key]
    for known in choices:
        if value == known:
            return known
    raise _wrong(key, f"one of {', '.join(choices)}", value)


def integer(row: Mapping[str, Any], key: str) -> int:
    """The whole number under a key.

    Raises:
        ValueError: If it is none; true and false are none.
    """
    value = row[key]
    if type(value) is not int:
        raise _wrong(key, "a whole number", value)
    return value


def integers(row: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """The list of whole numbers under a key.

    Raises:
        ValueError: If it is none.
    """
    values = row[key]
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise _wrong(key, "a list of whole numbers", values)
    return tuple(values)


def _wrong(key: str, expected: str, value: object) -> ValueError:
    return ValueError(f"{key} must be {expected}, got {value!r:.80}. Correct the row.")
