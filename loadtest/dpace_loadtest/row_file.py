"""Rows as JSON lines: what a worker sends to the master, and what a run leaves behind."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpace_loadtest.rows import RequestRow
from dpace_serve.errors import ConfigError


def row_to_dict(row: RequestRow) -> dict[str, Any]:
    """A row as values of JSON; keys are the names of its fields."""
    return dataclasses.asdict(row)


def row_from_dict(values: dict[str, Any]) -> RequestRow:
    """The row again.

    Raises:
        TypeError: If a field is missing or unknown.
    """
    gaps = tuple(values.get("chunk_gaps_seconds", ()))
    return RequestRow(**(values | {"chunk_gaps_seconds": gaps}))


def read_rows(path: Path) -> Iterator[RequestRow]:
    """The rows of a file, one a line, in its order.

    Raises:
        ConfigError: If the file cannot be read or a line is no row.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                yield _parse(line, place=f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{path}: cannot be read ({reason}). Check the path.") from None


def _parse(line: str, *, place: str) -> RequestRow:
    try:
        return row_from_dict(json.loads(line))
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{place}: no row of a load test ({error}). Correct the line.") from None
