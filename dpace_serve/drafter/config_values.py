"""Typed values out of a drafter's `config.json`; each error names the key, the value and a cure."""

from collections.abc import Mapping
from typing import Any

from dpace_serve.errors import CheckpointError

MAX_WHOLE = 2**31 - 1
"""Beyond every size of a model; a larger number is a mistake, or is to cost time and memory."""
MAX_LAYERS = 1024
"""Beyond every drafter's, and every target's."""


def given(key: str, places: tuple[Mapping[str, Any], ...]) -> object:
    """The one value of a key that may stand in several places.

    Raises:
        CheckpointError: If it is missing, or differs between two places.
    """
    found = [place[key] for place in places if place.get(key) is not None]
    if not found:
        raise CheckpointError(
            f"{key} must be given, it is missing. Write what the drafter was trained with."
        )
    if any(value != found[0] for value in found[1:]):
        raise CheckpointError(
            f"{key} must be the same in both places, got {found[0]!r:.80} and {found[1]!r:.80}."
            " Keep the one the drafter was trained with."
        )
    return found[0]


def whole(key: str, *places: Mapping[str, Any]) -> int:
    """A whole number.

    Raises:
        CheckpointError: If it is missing, ambiguous or something else.
    """
    value = given(key, places)
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(
            f"{key} must be a whole number, got {value!r:.80}. Correct it in config.json."
        )
    if abs(value) > MAX_WHOLE:
        raise CheckpointError(
            f"{key} must be at most {MAX_WHOLE}, got {value!r:.80}. Correct it in config.json."
        )
    return value


def num_layers(key: str, *places: Mapping[str, Any]) -> int:
    """A number of layers, small enough to make a list of them.

    Raises:
        CheckpointError: If it is missing, ambiguous, too large or something else.
    """
    value = whole(key, *places)
    if value > MAX_LAYERS:
        raise CheckpointError(
            f"{key} must be at most {MAX_LAYERS}, got {value}. Correct it in config.json."
        )
    return value


def whole_list(key: str, *places: Mapping[str, Any]) -> tuple[int, ...]:
    """A list of whole numbers, one for each of some layers.

    Raises:
        CheckpointError: If it is missing, ambiguous or something else.
    """
    values = given(key, places)
    if not isinstance(values, list):
        raise CheckpointError(
            f"{key} must be a list, got {values!r:.80}. Correct it in config.json."
        )
    if len(values) > MAX_LAYERS:
        raise CheckpointError(
            f"{key} must have at most {MAX_LAYERS} entries, got {len(values)}. Correct it in"
            " config.json."
        )
    return tuple(whole(key, {key: value}) for value in values)


def number(key: str, *places: Mapping[str, Any]) -> float:
    """A number.

    Raises:
        CheckpointError: If it is missing, ambiguous or something else.
    """
    value = given(key, places)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CheckpointError(
            f"{key} must be a number, got {value!r:.80}. Correct it in config.json."
        )
    try:
        return float(value)
    except OverflowError:
        raise CheckpointError(
            f"{key} must be a number that a float can hold, got {value!r:.80}. Correct it in"
            " config.json."
        ) from None


def flag(key: str, values: Mapping[str, Any]) -> bool:
    """True or false; false where it is not given.

    Raises:
        CheckpointError: If it is something else.
    """
    value = values.get(key)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(
            f"{key} must be true or false, got {value!r:.80}. Correct it in config.json."
        )
    return bool(value)


def group(key: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A group of keys; empty where it is not given.

    Raises:
        CheckpointError: If it is something else.
    """
    found = values.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{key} must be a group of keys, got {found!r:.80}. Correct config.json."
        )
    return found


def fact(key: str, facts: Mapping[str, Any]) -> str | None:
    """A text of the `dpace` group; none where it is not given.

    Raises:
        CheckpointError: If it is something else.
    """
    found = facts.get(key)
    if found is not None and not isinstance(found, str):
        raise CheckpointError(f"dpace.{key} must be text, got {found!r:.80}. Correct config.json.")
    return found
