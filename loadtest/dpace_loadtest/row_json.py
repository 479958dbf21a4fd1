"""RequestRow as a line of JSON and back; a row of another shape is an error that names its line."""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

from dpace_loadtest.rows import Outcome, Phase, RequestRow
from dpace_serve.acceptance import json_row
from dpace_serve.errors import ConfigError
from dpace_serve.outside_text import open_file, parse_json

PHASES: tuple[Phase, ...] = get_args(Phase)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

_KEYS = tuple(field.name for field in fields(RequestRow))


def to_line(row: RequestRow) -> str:
    """The row as one line of JSON, without the end of the line."""
    return json.dumps(asdict(row), allow_nan=False)


def from_dict(row: Mapping[str, Any]) -> RequestRow:
    """The row that `to_line` wrote, parsed.

    Raises:
        ValueError: If a key is missing or unknown, a value is of another type, or a request ended
            before it was sent.
    """
    json_row.require_keys(row, _KEYS)
    found = RequestRow(
        response_id=json_row.text(row, "response_id"),
        arm=json_row.text(row, "arm"),
        load=json_row.number(row, "load"),
        round=json_row.integer(row, "round"),
        phase=json_row.choice(row, "phase", PHASES),
        workload=json_row.text(row, "workload"),
        prompt_key=json_row.text(row, "prompt_key"),
        session=json_row.integer(row, "session"),
        turn=json_row.integer(row, "turn"),
        scheduled_seconds=json_row.number(row, "scheduled_seconds"),
        sent_seconds=json_row.number(row, "sent_seconds"),
        first_token_seconds=_number_or_none(row, "first_token_seconds"),
        last_token_seconds=_number_or_none(row, "last_token_seconds"),
        ended_seconds=json_row.number(row, "ended_seconds"),
        chunk_gaps_seconds=_numbers(row, "chunk_gaps_seconds"),
        outcome=json_row.choice(row, "outcome", OUTCOMES),
        status=None if row["status"] is None else json_row.integer(row, "status"),
        error=None if row["error"] is None else json_row.text(row, "error"),
        prompt_tokens=_count_or_none(row, "prompt_tokens"),
        completion_tokens=_count_or_none(row, "completion_tokens"),
    )
    if found.ended_seconds < found.sent_seconds:
        raise ValueError(
            f"a request ends after it was sent, got {found.ended_seconds} s and "
            f"{found.sent_seconds} s. Correct the row."
        )
    return found


def from_line(line: str) -> RequestRow:
    """The row of a line of JSON.

    Raises:
        ValueError: If it is none; see `from_dict`.
    """
    return from_dict(json_row.row_of(parse_json(line, parse_constant=_refuse_constant)))


def write_rows(path: Path, rows: Iterable[RequestRow]) -> None:
    """Write one row a line.

    Raises:
        ConfigError: If the file cannot be written.
    """
    try:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(f"{to_line(row)}\n" for row in rows)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}). Free the path.") from None


def read_rows(path: Path) -> Iterator[RequestRow]:
    """Rows of a file in order; empty lines are passed over.

    Raises:
        ConfigError: If the file cannot be read, or a line is no row; names the line.
    """
    try:
        with open_file(path) as file:
            lines = io.TextIOWrapper(file, encoding="utf-8")
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _read_line(path, number, line)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{path}: cannot be read ({reason}). Check the path.") from None


def _read_line(path: Path, number: int, line: str) -> RequestRow:
    try:
        return from_line(line)
    except ValueError as error:
        raise ConfigError(f"{path}, line {number}: {error}") from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"a number must be finite, got {name}. Write null where there is none.")


def _number_or_none(row: Mapping[str, Any], key: str) -> float | None:
    return None if row[key] is None else json_row.number(row, key)


def _numbers(row: Mapping[str, Any], key: str) -> tuple[float, ...]:
    values = row[key]
    if not isinstance(values, list):
        raise ValueError(  # noqa: TRY004 (what a caller catches is that the text is no row)
            f"{key} must be a list of numbers, got {values!r:.80}. Correct the row."
        )
    return tuple(json_row.number({key: value}, key) for value in values)


def _count_or_none(row: Mapping[str, Any], key: str) -> int | None:
    if row[key] is None:
        return None
    value = json_row.integer(row, key)
    if value < 0:
        raise ValueError(f"{key} must not be negative, got {value}. Correct the row.")
    return value
