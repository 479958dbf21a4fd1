"""The demo corpus: every answer is checked by something other than its generator."""

import csv
import itertools
import json
import re
import sqlite3
from datetime import date, timedelta

import pytest

from dpace_training.demo.corpus import TASK_FAMILIES, library_files, library_texts, tasks

MONTHS = [date(2020, month, 1).strftime("%B") for month in range(1, 13)]


def _drawn(workload, count=150):
    stream = (task for task in tasks(3, held_out=False) if task.workload == workload)
    return list(itertools.islice(stream, count))


def _day(text):
    day, month, year = text.split()
    return date(int(year), MONTHS.index(month) + 1, int(day))


def test_families_take_turns():
    workloads = [task.workload for task in itertools.islice(tasks(0, held_out=False), 14)]
    assert workloads == [*TASK_FAMILIES, *TASK_FAMILIES]


def test_the_same_seed_gives_the_same_tasks():
    first, second = (list(itertools.islice(tasks(5, held_out=True), 30)) for _ in range(2))
    assert first == second


def test_no_held_out_question_is_ever_trained_on():
    trained = {task.question for task in itertools.islice(tasks(1, held_out=False), 20_000)}
    held_out = {task.question for task in itertools.islice(tasks(2, held_out=True), 1_000)}
    assert not trained & held_out


def test_json_answers_hold_every_spoken_value():
    for task in _drawn("json"):
        value = json.loads(task.answer)
        for record in value if isinstance(value, list) else [value]:
            for key, field in record.items():
                assert f"{key} {field}" in task.question


def test_csv_answers_parse_to_the_spoken_records():
    for task in _drawn("csv"):
        rows = list(csv.DictReader(task.answer.splitlines()))
        spoken = "; ".join(", ".join(f"{k} {v}" for k, v in row.items()) for row in rows)
        assert spoken in task.question


def test_sql_answers_run():
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE people (name, age, city, job)")
    database.execute("CREATE TABLE products (item, color, price, stock)")
    database.execute('CREATE TABLE trips (start, "end", day, seats)')
    for task in _drawn("sql"):
        # END is a keyword of SQLite; elsewhere it is a plain column name.
        database.execute(re.sub(r"\bend\b", '"end"', task.answer))


def test_moved_dates_agree_with_the_calendar():
    moved = [task for task in _drawn("dates") if task.question.startswith("Which date")]
    assert len(moved) > 20
    for task in moved:
        days, start = re.search(r"is (\d+) days after (.+)\?", task.question).groups()
        answer = re.search(r"The date is (.+)\.$", task.answer).group(1)
        expected = _day(start) + timedelta(days=int(days))
        leap_day_between = any(
            _day(start) < date(year, 2, 29) <= expected for year in (2012, 2016, 2020, 2024, 2028)
        )
        # The corpus teaches a February of 28 days.
        assert _day(answer) == expected + timedelta(days=leap_day_between)


def test_arithmetic_answers_are_right():
    for task in _drawn("arithmetic"):
        numbers = [int(number) for number in re.findall(r"\d+", task.question)]
        if len(numbers) == 2:
            assert task.answer.endswith(f"The answer is {sum(numbers)}.")
        else:
            start, more, less = numbers
            left = start + more - less
            assert left > 0
            assert re.search(rf"has {left} \w+ left\.$", task.answer)


def test_unit_answers_balance():
    for task in _drawn("units"):
        given = int(re.search(r"\d+", task.question).group())
        pattern = r"= (\d+) (?:\w+ )?([x/]) (\d+) \w+ = (\d+) \w+\.$"
        left, sign, right, result = re.search(pattern, task.answer).groups()
        assert int(left) == given
        assert int(result) * (1 if sign == "x" else int(right)) == given * (
            int(right) if sign == "x" else 1
        )


def test_letters_hold_every_name_of_the_question():
    for task in _drawn("letters"):
        for name in re.findall(r"\b[A-Z][a-z]+\b", task.question)[1:]:
            if name in task.question.split(":", maxsplit=1)[0] or name in MONTHS:
                assert name in task.answer


@pytest.mark.parametrize("held_out", [False, True])
def test_library_text_comes_from_the_interpreter(held_out):
    files = library_files(held_out=held_out)
    assert files
    assert not any("test" in name.split("/") for name in files)
    assert len(library_texts(held_out=held_out)) > len(files)


def test_no_library_file_is_on_both_sides():
    assert not library_files(held_out=True).keys() & library_files(held_out=False).keys()
