"""Rows as lines of JSON: the way there and back, and what is refused."""

import json

import pytest

from dpace_loadtest.row_json import from_line, read_rows, to_line, write_rows
from dpace_serve.errors import ConfigError

from .made_rows import row  # noqa: TID252 - tests have no package


def test_a_row_comes_back_as_it_was(tmp_path):
    rows = [row(0.5), row(1.0, outcome="refused", status=429, workload="sql — ü")]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert list(read_rows(tmp_path / "rows.jsonl")) == rows


def test_whole_numbers_may_stand_for_times():
    line = to_line(row(1.0)).replace('"scheduled_seconds": 1.0', '"scheduled_seconds": 1')
    assert from_line(line) == row(1.0)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("load", "many", "load must be a finite number"),
        ("load", True, "load must be a finite number"),
        ("round", 1.5, "round must be a whole number"),
        ("phase", "cool_down", "phase must be one of warm_up, measured"),
        ("outcome", "fine", "outcome must be one of ok, refused"),
        ("chunk_gaps_seconds", 0.1, "chunk_gaps_seconds must be a list"),
        ("chunk_gaps_seconds", [0.1, None], "chunk_gaps_seconds must be a finite number"),
        ("completion_tokens", -1, "completion_tokens must not be negative"),
        ("completion_tokens", 1.0, "completion_tokens must be a whole number"),
        ("scheduled_seconds", None, "scheduled_seconds must be a finite number"),
        ("ended_seconds", 0.2, "ends after it was sent"),
        ("response_id", None, "response_id must be text"),
    ],
)
def test_a_value_of_another_kind_is_an_error_that_names_the_line(tmp_path, key, value, said):
    path = tmp_path / "rows.jsonl"
    bad = json.dumps(json.loads(to_line(row(0.5))) | {key: value})
    path.write_text(f"{to_line(row())}\n\n{bad}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"rows\.jsonl, line 3: .*{said}"):
        list(read_rows(path))


def test_a_missing_and_an_unknown_key_are_errors():
    values = json.loads(to_line(row()))
    del values["turn"]
    with pytest.raises(ValueError, match=r"missing: \['turn'\], unknown: \['turns'\]"):
        from_line(json.dumps(values | {"turns": 0}))


@pytest.mark.parametrize("line", ["[1]", "{", "7", '{"load": NaN}', "nonsense"])
def test_a_line_that_is_no_object_is_an_error(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(ConfigError, match="line 1"):
        list(read_rows(path))


def test_a_file_that_is_not_there_or_no_text_is_one_clear_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        list(read_rows(tmp_path / "none.jsonl"))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        list(read_rows(tmp_path / "bytes"))
    with pytest.raises(ConfigError, match="cannot be written"):
        write_rows(tmp_path / "none" / "rows.jsonl", [row()])
