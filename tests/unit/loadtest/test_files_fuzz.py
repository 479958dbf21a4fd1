"""Files and answers that a load test reads, as nobody meant them."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpace_loadtest.arm_access import read_key
from dpace_loadtest.arrivals import ArrivalConfig, read_trace
from dpace_loadtest.prompt_records import read_records
from dpace_loadtest.row_json import read_rows, to_line
from dpace_loadtest.run_record import read_record, write_record
from dpace_loadtest.stream import StreamedAnswer
from dpace_serve.errors import ConfigError
from tests.fuzzing import FUZZ, damaged, json_files, json_lines, outcome

from .made_rows import row  # noqa: TID252 - tests have no package

PROMPTS = [
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    {"conversations": [{"from": "human", "value": "q"}]},
    {"question": "q", "answer": "a"},
    {"prompt": "p"},
]
ROWS = [json.loads(to_line(row(float(second)))) for second in range(2)]
CELL = {
    "arm": "a", "load": 1.0, "round": 0, "begin_seconds": 0.0, "end_seconds": 2.0,
    "num_requests": 3, "num_failed": 0, "p99_send_lag_ms": None, "cpu_share": 0.5,
}  # fmt: skip
RECORD = {
    "run_id": "r", "started_unix_seconds": 1.5, "num_workers": 1, "prompts_sha256": "0",
    "cells": [CELL],
}  # fmt: skip
EVENT = {
    "id": "chatcmpl-1",
    "choices": [{"delta": {"content": "a"}, "text": "b", "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    "error": {"message": "m", "code": 400},
}


def file_of(folder, raw):
    path = folder / "made"
    path.write_bytes(raw)
    return path


@FUZZ
@given(raw=json_lines(PROMPTS))
def test_any_prompts_are_read_or_refused(tmp_path, raw):
    path = file_of(tmp_path, raw)
    for prompt in outcome(lambda: read_records(path)) or ():
        assert prompt.text or prompt.messages[-1].role == "user"


@FUZZ
@given(raw=json_lines([1.5, 2, {"timestamp": 3.5}]))
def test_any_trace_rises_from_0_or_is_refused(tmp_path, raw):
    config = ArrivalConfig(trace=file_of(tmp_path, raw))
    moments = outcome(lambda: read_trace(config))
    if moments is not None:
        assert moments[0] == 0
        assert list(moments) == sorted(moments)


@FUZZ
@given(raw=json_lines(ROWS))
def test_any_rows_come_back_as_they_were_read_or_are_refused(tmp_path, raw):
    path = file_of(tmp_path, raw)
    for found in outcome(lambda: list(read_rows(path))) or ():
        again = file_of(tmp_path, to_line(found).encode())
        assert list(read_rows(again)) == [found]


@FUZZ
@given(raw=json_files(RECORD))
def test_any_record_of_a_run_comes_back_as_it_was_read_or_is_refused(tmp_path, raw):
    path = file_of(tmp_path, raw)
    found = outcome(lambda: read_record(path))
    if found is not None:
        write_record(path, found)
        assert read_record(path) == found


def test_the_record_that_is_damaged_here_is_one(tmp_path):
    assert asdict(read_record(file_of(tmp_path, json.dumps(RECORD).encode()))) == {
        **RECORD,
        "cells": (CELL,),
    }


@FUZZ
@given(data=st.data())
def test_any_event_of_a_server_is_taken_or_is_a_value_error(data):
    answer = StreamedAnswer()
    for moment in range(2):
        raw = data.draw(json_files(EVENT))
        outcome(lambda raw=raw, moment=moment: answer.take(raw, moment), refusals=ValueError)
    assert all(isinstance(text, str) for text in answer.texts)


@FUZZ
@given(raw=damaged(b"sk-0123456789\n"))
def test_any_key_file_holds_one_printable_key_or_is_refused(tmp_path, raw):
    path = file_of(tmp_path, raw)
    key = outcome(lambda: read_key(path))
    assert key is None or (key.isascii() and key.isprintable() and key == key.strip())


@pytest.mark.parametrize("number", ["1" + "0" * 400, "NaN", "1e999", "true", '"1"'])
def test_a_row_has_numbers_that_a_float_can_hold(tmp_path, number):
    line = to_line(row()).replace('"ended_seconds": 1.1', f'"ended_seconds": {number}')
    with pytest.raises(ConfigError, match=r"made, line 1: .*number"):
        list(read_rows(file_of(tmp_path, line.encode())))


@pytest.mark.parametrize("cells", [{}, [5], [{}], [{**CELL, "load": "1"}], [{**CELL, "x": 1}], 7])
def test_a_record_of_other_types_is_refused_where_it_is_read(tmp_path, cells):
    with pytest.raises(ConfigError, match="no record of a load test"):
        read_record(file_of(tmp_path, json.dumps({**RECORD, "cells": cells}).encode()))


@pytest.mark.parametrize("line", ["[" * 900 + "]" * 900, "9" * 5000])
@pytest.mark.parametrize("read", [read_records, lambda path: read_trace(ArrivalConfig(trace=path))])
def test_numbers_and_depths_that_python_refuses_are_one_line(tmp_path, read, line):
    with pytest.raises(ConfigError, match="not valid JSON"):
        read(file_of(tmp_path, line.encode()))
