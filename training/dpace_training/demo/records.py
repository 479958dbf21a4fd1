"""Record tasks: a person's words for one or more records become JSON, CSV or SQL."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

from dpace_training.demo import words

Value = str | int
Record = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of record: its table name and how each field gets its value."""

    table: str
    fields: dict[str, Callable[[random.Random], Value]]


def _full_name(rng: random.Random) -> str:
    return f"{rng.choice(words.FIRST_NAMES)} {rng.choice(words.LAST_NAMES)}"


KINDS = (
    Kind(
        "people",
        {
            "name": _full_name,
            "age": lambda rng: rng.randint(18, 89),
            "city": lambda rng: rng.choice(words.CITIES),
            "job": lambda rng: rng.choice(words.JOBS),
        },
    ),
    Kind(
        "products",
        {
            "item": lambda rng: rng.choice(words.ITEMS),
            "color": lambda rng: rng.choice(words.COLORS),
            "price": lambda rng: rng.randint(2, 250),
            "stock": lambda rng: rng.randint(1, 99),
        },
    ),
    Kind(
        "trips",
        {
            "start": lambda rng: rng.choice(words.CITIES),
            "end": lambda rng: rng.choice(words.CITIES),
            "day": lambda rng: rng.choice(words.WEEKDAYS),
            "seats": lambda rng: rng.randint(1, 60),
        },
    ),
)


def json_task(rng: random.Random) -> tuple[str, str]:
    """Return a question and its answer: one or two records as JSON."""
    records, _ = _draw(rng, max_records=2)
    ask = rng.choice(("Write as JSON:", "Turn this into JSON:", "Give me JSON for"))
    value: object = records[0] if len(records) == 1 else records
    return f"{ask} {_spoken(records)}", json.dumps(value)


def csv_task(rng: random.Random) -> tuple[str, str]:
    """Return a question and its answer: one to three records as CSV with a header."""
    records, _ = _draw(rng, max_records=3)
    ask = rng.choice(("Write as CSV with a header:", "Turn this into CSV:", "Make a CSV table of"))
    lines = [",".join(records[0])]
    lines += [",".join(str(value) for value in record.values()) for record in records]
    return f"{ask} {_spoken(records)}", "\n".join(lines)


def sql_task(rng: random.Random) -> tuple[str, str]:
    """Return a question and its answer: an INSERT, SELECT, UPDATE or DELETE statement."""
    return rng.choice((_insert, _select, _update, _delete))(rng)


def _insert(rng: random.Random) -> tuple[str, str]:
    records, kind = _draw(rng, max_records=1)
    columns = ", ".join(records[0])
    values = ", ".join(_sql_value(value) for value in records[0].values())
    ask = rng.choice((f"Insert into {kind.table}:", f"SQL to add to {kind.table}:"))
    return (
        f"{ask} {_spoken(records)}",
        f"INSERT INTO {kind.table} ({columns}) VALUES ({values});",
    )


def _select(rng: random.Random) -> tuple[str, str]:
    records, kind = _draw(rng, max_records=1)
    columns = list(records[0])
    key, condition_words, condition = _condition(rng, kind)
    question = (
        f"SQL to show {' and '.join(columns)} of {kind.table} where {key} is {condition_words}"
    )
    return question, f"SELECT {', '.join(columns)} FROM {kind.table} WHERE {key} {condition};"


def _update(rng: random.Random) -> tuple[str, str]:
    kind = rng.choice(KINDS)
    column = rng.choice(list(kind.fields))
    value = kind.fields[column](rng)
    key, condition_words, condition = _condition(rng, kind)
    question = f"SQL to set {column} to {value} in {kind.table} where {key} is {condition_words}"
    answer = f"UPDATE {kind.table} SET {column} = {_sql_value(value)} WHERE {key} {condition};"
    return question, answer


def _delete(rng: random.Random) -> tuple[str, str]:
    kind = rng.choice(KINDS)
    key, condition_words, condition = _condition(rng, kind)
    question = f"SQL to delete from {kind.table} where {key} is {condition_words}"
    return question, f"DELETE FROM {kind.table} WHERE {key} {condition};"


def _condition(rng: random.Random, kind: Kind) -> tuple[str, str, str]:
    key = rng.choice(list(kind.fields))
    value = kind.fields[key](rng)
    if isinstance(value, str):
        return key, value, f"= {_sql_value(value)}"
    comparison, sign = rng.choice((("over", ">"), ("under", "<"), ("exactly", "=")))
    return key, f"{comparison} {value}", f"{sign} {value}"


def _draw(rng: random.Random, *, max_records: int) -> tuple[list[Record], Kind]:
    kind = rng.choice(KINDS)
    names = list(kind.fields)
    chosen = sorted(rng.sample(names, rng.randint(2, len(names))), key=names.index)
    count = rng.randint(1, max_records)
    return [{name: kind.fields[name](rng) for name in chosen} for _ in range(count)], kind


def _spoken(records: list[Record]) -> str:
    return "; ".join(
        ", ".join(f"{name} {value}" for name, value in record.items()) for record in records
    )


def _sql_value(value: Value) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)
