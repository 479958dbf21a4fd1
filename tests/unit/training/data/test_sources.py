"""Documents from files, folders and datasets in every format."""

import json
import typing
from pathlib import Path

import datasets
import huggingface_hub
import pytest

from dpace_serve.errors import ConfigError
from dpace_training.data.captured_answer import CapturedAnswer
from dpace_training.data.conversations import (
    Completion,
    Conversation,
    Message,
    read_documents,
    to_record,
)
from dpace_training.data.formats import FORMATS
from dpace_training.data.input_config import FormatName, InputConfig
from dpace_training.data.sources import read_source

CHAT = {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}
READ_CHAT = (Message("user", "2+2?"), Message("assistant", "4"))


def read(path, *, needs_prompt=False, **options):
    return read_source(path, InputConfig(**options), needs_prompt=needs_prompt)


def error_of(path, **options):
    with pytest.raises(ConfigError) as caught:
        read(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_every_format_that_can_be_chosen_is_in_the_table():
    assert set(FORMATS) == set(typing.get_args(FormatName))


def test_the_format_of_each_record_follows_from_its_keys(write_jsonl):
    path = write_jsonl(
        "mixed.jsonl",
        [
            CHAT | {"prompt": "chats often keep their first question too", "workload": "sums"},
            {"prompt": "def f(", "completion": "x):"},
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            {
                "request": {"prompt": "c"},
                "response": {"choices": [{"text": "d", "finish_reason": "stop"}]},
            },
            {"text": "once"},
            {"prompt_token_ids": [5], "output_token_ids": [6], "finish_reason": "stop"},
        ],
    )
    assert read(path) == [
        Conversation(0, "sums", READ_CHAT, None),
        Completion(1, "other", "def f(", "x):", None),
        Conversation(2, "other", (Message("user", "a"), Message("assistant", "b")), None),
        Completion(3, "other", "c", "d", None),
        Completion(4, "other", "", "once", None),
        CapturedAnswer(5, "other", (5,), (6,), None),
    ]


def test_our_own_records_are_read_as_ever(write_jsonl):
    path = write_jsonl("own.jsonl", [CHAT | {"answer_ids": [1, 2]}, {"prompt": "a"}])
    assert read(path) == read_documents(path)


def test_a_json_array_is_read_as_its_records(tmp_path):
    path = tmp_path / "array.json"
    path.write_text(json.dumps([CHAT, {"prompt": "a"}], indent=1))
    assert [type(document) for document in read(path)] == [Conversation, Completion]
    path.write_text(json.dumps([CHAT, {"nothing": 1}], indent=1))
    assert error_of(path).startswith(f"{path}, record 2: must have messages")
    path.write_text('[\n{"prompt": "a"},\n{"prompt": "b"\n')
    assert error_of(path).startswith(f"{path}:4: not valid JSON")


@pytest.mark.parametrize(
    ("record", "options", "said"),
    [
        ({"nothing": 1}, {}, "must have messages (a chat), prompt"),
        ({"prompt_token_ids": [1]}, {}, "prompt_token_ids and output_token_ids (a capture of"),
        ({"prompt": "a"}, {"format": "messages"}, "input.format=messages must have messages, has"),
        ({"question": "a"}, {"columns": {"prompt": "query"}}, "has no query, but question"),
        ({"conversations": "a"}, {}, "conversations must be a list"),
        ({"conversations": [{"role": "user", "content": "a"}]}, {}, "must have from and value"),
        ({"conversations": [{"from": "robot", "value": "a"}]}, {}, "conversations.0.from: must be"),
        ({"conversations": [{"from": "gpt", "value": "a"}]}, {}, "follows nothing"),
        ({"conversations": [{"from": "human", "value": 3}]}, {}, "messages.0.content: "),
        ({"text": " \n"}, {}, "text must be a text that is not empty"),
        ({"request": {}}, {}, "request must be an object with messages or prompt"),
        ({"prompt": "", "completion": ""}, {}, "prompt and completion are both empty"),
    ],
)
def test_a_bad_line_is_one_error_with_file_and_line(write_jsonl, record, options, said):
    path = write_jsonl("bad.jsonl", [record])
    text = error_of(path, **options)
    assert text.startswith(f"{path}:1: ")
    assert said in text


def test_wrong_records_can_be_left_out_and_are_counted(write_jsonl, caplog):
    path = write_jsonl("some.jsonl", [{"x": 1}, CHAT, {"messages": []}, {"prompt": "a"}])
    documents = read(path, invalid="skip")
    assert [document.document_id for document in documents] == [0, 1]
    assert "2 of 4 records are not used (2 wrong form)." in caplog.text
    assert f"{path}:1: must have messages" in caplog.text
    only_bad = write_jsonl("none.jsonl", [{"x": 1}])
    assert "holds no document (1 wrong form)" in error_of(only_bad, invalid="skip")


def test_columns_name_the_keys_and_no_others_are_read(write_jsonl):
    path = write_jsonl("sums.jsonl", [{"question": "2+2?", "answer": "4", "kind": "sums"} | CHAT])
    columns = {"prompt": "question", "completion": "answer", "workload": "kind"}
    assert read(path, columns=columns) == [Completion(0, "sums", "2+2?", "4", None)]


# --- ShareGPT ---


def test_sharegpt_speakers_become_roles(write_jsonl):
    said = [("system", "s"), ("human", "a"), ("gpt", "b"), ("observation", "c"), ("chatgpt", "d")]
    turns = [{"from": speaker, "value": text} for speaker, text in said]
    (chat,) = read(write_jsonl("s.jsonl", [{"conversations": turns, "workload": "chat"}]))
    assert [message.role for message in chat.messages] == [
        "system", "user", "assistant", "tool", "assistant",
    ]  # fmt: skip
    assert (chat.workload, chat.messages[4].content) == ("chat", "d")


def test_a_system_text_beside_a_sharegpt_chat_is_its_first_message(write_jsonl):
    turns = [{"from": "human", "value": "a"}]
    own = [{"from": "system", "value": "own"}, *turns]
    path = write_jsonl(
        "s.jsonl",
        [{"conversations": turns, "system": "beside"}, {"conversations": own, "system": "beside"}],
    )
    assert [chat.messages[0] for chat in read(path)] == [
        Message("system", "beside"),
        Message("system", "own"),
    ]


# --- contents of messages ---


def chat_with(answer, **beside):
    return {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", **answer}]
    } | beside


def test_text_parts_are_joined_by_a_newline(write_jsonl):
    parts = [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]
    (chat,) = read(write_jsonl("p.jsonl", [chat_with({"content": parts})]))
    assert chat.messages[1].content == "b\nc"


def test_reasoning_is_kept_and_comes_back_from_a_record(write_jsonl):
    answer = {"content": "b", "reasoning_content": "hm", "tool_calls": None}
    documents = read(write_jsonl("r.jsonl", [chat_with(answer, answer_is_cut=True)]))
    assert documents[0].messages[1] == Message("assistant", "b", "hm")
    assert documents[0].answer_is_cut
    again = write_jsonl("again.jsonl", [to_record(document) for document in documents])
    assert read(again) == documents


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"content": [{"type": "image_url", "image_url": "x"}]}, "must be text, is image_url"),
        ({"content": ["x"]}, "messages.1.content: a part of the content must be text, is str"),
        ({"content": None, "tool_calls": [{"id": "1"}]}, "messages.1: tool calls cannot be"),
        ({"content": None}, "messages.1.content: "),
    ],
)
def test_what_is_not_text_is_an_error_that_names_the_line(write_jsonl, answer, said):
    path = write_jsonl("p.jsonl", [CHAT, chat_with(answer)])
    text = error_of(path)
    assert text.startswith(f"{path}:2: ")
    assert said in text


# --- plain text ---


def test_a_text_file_is_one_document_to_the_byte(tmp_path):
    path = tmp_path / "story.txt"
    path.write_bytes("one\r\ntwo\u2028\n".encode())
    assert read(path) == [Completion(0, "other", "", "one\r\ntwo\u2028\n", None)]


def test_a_folder_of_texts_is_a_document_each_in_the_order_of_names(tmp_path):
    folder = tmp_path / "texts"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.txt", "sub/c.txt", "a.txt", "read.me", ".hidden.txt"):
        (folder / name).write_text(name)
    texts = [document.completion for document in read(folder)]
    assert texts == ["a.txt", "b.txt", "sub/c.txt"]
    every = [document.completion for document in read(folder, format="text")]
    assert every == ["a.txt", "b.txt", "read.me", "sub/c.txt"]


@pytest.mark.parametrize(
    "text", ["1\n2\n3\n4\n5\n", "1\n2\n3\n4\n5", "\n\n\n\n\n", "1\r\n2\u2028\n"]
)
@pytest.mark.parametrize("options", [{}, {"text_lines": 2}, {"text_lines": 3, "prompt_lines": 2}])
def test_a_cut_text_loses_nothing(tmp_path, text, options):
    path = tmp_path / "story.txt"
    path.write_bytes(b"x" + text.encode())
    documents = read(path, **options)
    assert "".join(document.prompt + document.completion for document in documents) == "x" + text


def test_texts_are_cut_at_lines_and_begin_with_their_prompt(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text("1\n2\n3\n4\n5\n")
    documents = read(path, text_lines=3, prompt_lines=1, needs_prompt=True)
    assert documents == [
        Completion(0, "other", "1\n", "2\n3\n", None),
        Completion(1, "other", "4\n", "5\n", None),
    ]


def test_a_text_without_prompt_cannot_be_answered(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text("once")
    with pytest.raises(ConfigError, match=r"story\.txt: a plain text has no prompt"):
        read(path, needs_prompt=True)


def test_a_prompt_as_long_as_the_piece_is_refused():
    with pytest.raises(ValueError, match="prompt_lines must be below text_lines = 3, got 3"):
        InputConfig(text_lines=3, prompt_lines=3)


def test_a_text_that_is_not_utf8_or_empty_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    assert "a.txt: cannot be read as text (not UTF-8)" in error_of(tmp_path)
    (tmp_path / "a.txt").write_text("  \n")
    assert "a.txt: text must be a text that is not empty" in error_of(tmp_path)


def test_a_path_that_is_not_there_and_a_folder_of_something_else_are_errors(tmp_path):
    assert "cannot be read (no such file or folder)" in error_of(tmp_path / "missing.jsonl")
    assert "a folder must hold .txt files, a dataset or captures" in error_of(tmp_path)


# --- Hugging Face datasets ---


@pytest.fixture
def table():
    datasets.disable_progress_bars()
    rows = [CHAT | {"workload": "sums", "prompt": None}, {"messages": None, "prompt": "a"}]
    return datasets.Dataset.from_list([{"workload": None} | row for row in rows])


READ_TABLE = [
    Conversation(0, "sums", READ_CHAT, None),
    Completion(1, "other", "a", "", None),
]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_a_parquet_file_and_a_folder_of_such_are_read(table, tmp_path):
    folder = tmp_path / "table"
    (folder / "data").mkdir(parents=True)
    table.to_parquet(folder / "data" / "train-00000.parquet")
    assert read(folder / "data" / "train-00000.parquet") == READ_TABLE
    assert read(folder) == read(folder, split="train") == READ_TABLE


def test_a_saved_dataset_is_read_by_its_split(table, tmp_path):
    table.save_to_disk(tmp_path / "one")
    assert read(tmp_path / "one") == READ_TABLE
    both = datasets.DatasetDict({"train": table, "test": table.select([1])})
    both.save_to_disk(tmp_path / "two")
    assert read(tmp_path / "two", split="test") == [Completion(0, "other", "a", "", None)]
    assert "input.split must be one of train, test, got None" in error_of(tmp_path / "two")


def test_a_wrong_row_is_named_by_its_number(table, tmp_path):
    table.to_parquet(tmp_path / "x.parquet")
    text = error_of(tmp_path / "x.parquet", format="completion")
    assert text.startswith(f"{tmp_path / 'x.parquet'}, row 0: a record of input.format=completion")


def test_a_damaged_table_is_one_error(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but not really")
    assert "x.parquet: cannot be read as a Hugging Face dataset (" in error_of(
        tmp_path / "x.parquet"
    )


def test_a_hub_that_cannot_be_reached_is_one_error(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    text = error_of(Path("somebody/chats"), split="train")
    assert text.startswith("somebody/chats: cannot be read as a Hugging Face dataset (")
    assert "that the hub can be reached" in text


def test_tools_of_a_sharegpt_chat_are_refused_and_can_be_left_out(write_jsonl, caplog):
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    path = write_jsonl(
        "tools.jsonl", [{"conversations": turns}, {"conversations": turns, "tools": "[{}]"}]
    )
    assert error_of(path).startswith(f"{path}:2: tools cannot be given to the chat template")
    assert len(read(path, invalid="skip")) == 1
    assert "1 of 2 records are not used (1 wrong form)" in caplog.text
