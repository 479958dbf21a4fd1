"""JSON objects of a file with the place where each stands, for error messages."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpace_serve.errors import ConfigError
from dpace_serve.outside_text import json_problem, parse_json


def json_records(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Read one JSON object a line, skipping empty lines, or the objects of one JSON array.

    Yields:
        The object and its place: file and line, or file and number in the array, from 1.

    Raises:
        ConfigError: If the file cannot be read, or holds something else.
    """
    yield from records_in(read_text(path), path)


def records_in(text: str, path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The same of the text of a file.

    Args:
        text: What was read.
        path: Its file, for the places.

    Raises:
        ConfigError: If the text holds something else.
    """
    for value, place in _array(text, path) or _lines(text, path):
        if not isinstance(value, dict):
            raise ConfigError(
                f"{place}: must be an object with messages or prompt, is a {type(value).__name__}."
            )
        yield value, place


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        ConfigError: If it cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{path}: cannot be read ({reason}). Check the path.") from None


def _array(text: str, path: Path) -> list[tuple[object, str]]:
    """The values of a file that is one JSON array, else nothing."""
    if not text.lstrip().startswith("["):
        return []
    try:
        values = parse_json(text)
    except ValueError as error:
        problem, place = json_problem(error), str(path)
        if problem == "Extra data":  # an array in the first of several lines
            return []
        if isinstance(error, json.JSONDecodeError):
            place = f"{path}:{error.lineno}"
        raise ConfigError(f"{place}: not valid JSON ({problem}). Correct the line.") from None
    return [(value, f"{path}, record {number}") for number, value in enumerate(values, start=1)]


def _lines(text: str, path: Path) -> Iterator[tuple[object, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            yield parse_json(line), place
        except ValueError as error:
            raise ConfigError(
                f"{place}: not valid JSON ({json_problem(error)}). Correct the line."
            ) from None
