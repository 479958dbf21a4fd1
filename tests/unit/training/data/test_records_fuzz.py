"""Training data that nobody meant: documents, or one line that says which record is wrong."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpace_serve.errors import ConfigError
from dpace_training.data.capture_files import captured_records
from dpace_training.data.conversations import parse_record, read_documents, to_record
from dpace_training.data.formats import our_records
from dpace_training.data.input_config import InputConfig
from dpace_training.data.json_records import json_records
from dpace_training.data.sources import read_source
from dpace_training.data.traffic import UnusableRecordError
from tests.fuzzing import FUZZ, json_files, json_lines, mutated, outcome

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
OURS = [
    {"messages": CHAT, "workload": "w", "answer_ids": [1, 2], "earlier_answer_ids": [None]},
    {"prompt": "p", "completion": "c", "answer_ids": [3]},
    {"prompt_token_ids": [1], "output_token_ids": [2], "workload": "w", "model": "m"},
]
FORMATS = [
    *OURS,
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {
        "request": {"messages": CHAT[:1], "metadata": {"workload": "w"}},
        "response": {"choices": [{"message": CHAT[1], "finish_reason": "stop"}]},
    },
    {
        "request": {"prompt": "p"},
        "response": {"choices": [{"text": "t", "finish_reason": "length"}]},
    },
    {"prompt_token_ids": [1], "output_token_ids": [2], "finish_reason": "stop", "model": "m"},
    {"text": "one\ntwo\n"},
]


@FUZZ
@given(raw=json_lines(OURS))
def test_any_file_of_documents_is_read_or_refused(tmp_path, raw):
    path = tmp_path / "documents.jsonl"
    path.write_bytes(raw)
    for document in outcome(lambda: read_documents(path)) or ():
        again = parse_record(to_record(document), document_id=document.document_id, place="here")
        assert again == document


@FUZZ
@given(data=st.data())
def test_any_record_of_any_format_is_read_counted_or_refused(data):
    record = data.draw(st.sampled_from(FORMATS).flatmap(mutated))
    if not isinstance(record, dict):
        return  # json_records refuses it
    for ours in (
        outcome(
            lambda: our_records(record, "here", InputConfig()),
            refusals=(ConfigError, UnusableRecordError),
        )
        or ()
    ):
        outcome(lambda ours=ours: parse_record(ours, document_id=0, place="here"))


@FUZZ
@given(raw=json_files([*OURS, *FORMATS]))
def test_any_array_is_read_or_refused(tmp_path, raw):
    path = tmp_path / "documents.json"
    path.write_bytes(raw)
    outcome(lambda: list(json_records(path)))
    outcome(lambda: read_source(path, InputConfig(invalid="skip"), needs_prompt=False))


@FUZZ
@given(raw=json_lines([FORMATS[6]] * 2))
def test_any_capture_is_read_or_refused(tmp_path, raw):
    path = tmp_path / "capture-00000.jsonl"
    path.write_bytes(raw)
    outcome(lambda: list(captured_records([path])))


@pytest.mark.parametrize("line", ["[" * 900 + "]" * 900, '{"messages": ' + "9" * 5000 + "}"])
def test_numbers_and_depths_that_python_refuses_are_one_line(tmp_path, line):
    path = tmp_path / "documents.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(ConfigError, match="not valid JSON") as caught:
        list(json_records(path))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("reason", [["stop"], {}, "a\nb", "x" * 200, 5])
@pytest.mark.parametrize("place", [4, 6])
def test_a_finish_reason_that_is_no_word_is_counted_and_not_quoted(reason, place):
    record = json.loads(json.dumps(FORMATS[place]))
    finished = record["response"]["choices"][0] if "response" in record else record
    finished["finish_reason"] = reason
    with pytest.raises(UnusableRecordError, match=r"^finish_reason missing$"):
        our_records(record, "here", InputConfig())
