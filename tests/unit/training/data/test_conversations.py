import json

import pytest

from dpace_serve.errors import ConfigError
from dpace_training.data.conversations import (
    Completion,
    Conversation,
    Message,
    read_documents,
    spread,
    to_record,
)

CHAT = {
    "messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}],
    "workload": "arithmetic",
    "source": "keys of other tools are allowed",
}


def test_a_line_with_messages_is_a_conversation_and_one_with_a_prompt_a_completion(write_jsonl):
    path = write_jsonl("documents.jsonl", [CHAT, {"prompt": "def f(", "completion": "x):"}])
    assert read_documents(path) == [
        Conversation(0, "arithmetic", (Message("user", "2+2?"), Message("assistant", "4")), None),
        Completion(1, "other", "def f(", "x):", None),
    ]


def test_documents_survive_a_round_trip_with_their_answer_ids(write_jsonl):
    records = [
        {**CHAT, "answer_ids": [7, 2]},
        {"prompt": "a", "completion": "b", "answer_ids": [3]},
    ]
    first = read_documents(write_jsonl("first.jsonl", records))
    again = read_documents(write_jsonl("again.jsonl", [to_record(item) for item in first]))
    assert again == first
    assert first[0].answer_ids == (7, 2)


TWO_ANSWERS = {"messages": [*CHAT["messages"], *CHAT["messages"]]}


def test_ids_of_every_answer_survive_a_round_trip(write_jsonl):
    given = TWO_ANSWERS | {"answer_ids": [7, 2], "earlier_answer_ids": [[5, 2]]}
    unknown = TWO_ANSWERS | {"answer_ids": [7, 2], "earlier_answer_ids": [None]}
    first = read_documents(write_jsonl("first.jsonl", [given, unknown, TWO_ANSWERS]))
    assert [document.ids_by_turn for document in first] == [{1: (5, 2), 3: (7, 2)}, {3: (7, 2)}, {}]
    again = read_documents(write_jsonl("again.jsonl", [to_record(item) for item in first]))
    assert again == first


def test_ids_of_more_answers_than_there_are_are_refused(write_jsonl):
    path = write_jsonl("many.jsonl", [CHAT | {"answer_ids": [2], "earlier_answer_ids": [[5]]}])
    with pytest.raises(ConfigError, match="one for each of 0 earlier answers, are 1"):
        read_documents(path)


def test_ids_count_documents_and_not_empty_lines(tmp_path):
    path = tmp_path / "gaps.jsonl"
    path.write_text(f"\n{json.dumps(CHAT)}\n\n{json.dumps(CHAT)}\n")
    assert [document.document_id for document in read_documents(path)] == [0, 1]


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path):
    path = tmp_path / "separator.jsonl"
    record = {"prompt": "a\u2028b", "completion": "c"}
    path.write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_documents(path) == [Completion(0, "other", "a\u2028b", "c", None)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json", "not valid JSON"),
        ("[1]", "must be an object"),
        ('{"text": "x"}', "must have messages (a chat) or prompt (a text to continue), has text"),
        ('{"messages": []}', "messages: "),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "messages.0.role: "),
        ('{"messages": [{"role": "user", "content": 3}]}', "messages.0.content: "),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "follows nothing"),
        ('{"messages": [{"role": "system", "content": "x"}]}', "must not be a system message"),
    ],
)
def test_a_bad_line_is_one_error_with_file_and_line(tmp_path, line, said):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(CHAT) + "\n" + line + "\n")
    with pytest.raises(ConfigError) as caught:
        read_documents(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tools": [TOOL]}, "tools cannot be given to the chat template; leave"),
        ({"tools": '[{"name": "add"}]'}, "tools cannot be given"),
        ({"functions": [TOOL["function"]]}, "functions cannot be given"),
        (
            {"messages": [CHAT["messages"][0], {"role": "assistant", "tool_calls": [CALL]}]},
            "messages.1: tool calls cannot be trained on; leave the conversation out",
        ),
        (
            {
                "messages": [
                    CHAT["messages"][0],
                    {"role": "assistant", "content": None, "function_call": {"name": "add"}},
                ]
            },
            "messages.1: tool calls cannot be trained on",
        ),
    ],
)
def test_tools_are_refused_and_not_dropped(write_jsonl, changes, said):
    path = write_jsonl("tools.jsonl", [CHAT, CHAT | changes])
    with pytest.raises(ConfigError) as caught:
        read_documents(path)
    assert str(caught.value).startswith(f"{path}:2: {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tools", [None, [], "", "[]"])
def test_a_record_that_offers_no_tool_is_read(write_jsonl, tools):
    (document,) = read_documents(write_jsonl("none.jsonl", [CHAT | {"tools": tools}]))
    assert document.messages[1].content == "4"


def test_two_answers_in_a_row_are_refused(write_jsonl):
    answers = [*CHAT["messages"], {"role": "assistant", "content": "again"}]
    with pytest.raises(ConfigError, match="follows assistant"):
        read_documents(write_jsonl("twice.jsonl", [{"messages": answers}]))


def test_an_empty_or_missing_file_is_an_error(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match="holds no document"):
        read_documents(tmp_path / "empty.jsonl")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_documents(tmp_path / "missing.jsonl")


def test_a_limit_takes_documents_from_the_whole_file():
    documents = [Completion(index, "other", "a", "b", None) for index in range(10)]
    assert [document.document_id for document in spread(documents, 4)] == [0, 2, 5, 7]
    assert spread(documents, None) == spread(documents, 99) == documents
