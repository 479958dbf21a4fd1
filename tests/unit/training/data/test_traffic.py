"""Captured traffic becomes documents; what cannot be trained on is counted by its reason."""

import pytest

from dpace_serve.errors import ConfigError
from dpace_training.data.conversations import Completion, Conversation, Message
from dpace_training.data.input_config import InputConfig
from dpace_training.data.sources import read_source

QUESTION = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4", "refusal": None, "tool_calls": None}


def chat(answer=ANSWER, finish_reason="stop", request=None, **beside):
    return {
        "request": {"model": "m", "temperature": 0, "messages": [QUESTION], **(request or {})},
        "response": {"choices": [{"message": answer, "finish_reason": finish_reason}]},
        **beside,
    }


def read(path):
    return read_source(path, InputConfig(), needs_prompt=True)


def test_a_chat_is_its_messages_and_the_answer(write_jsonl):
    path = write_jsonl(
        "traffic.jsonl", [chat(workload="sums"), chat(request={"metadata": {"workload": "tagged"}})]
    )
    messages = (Message("user", "2+2?"), Message("assistant", "4"))
    assert read(path) == [
        Conversation(0, "sums", messages, None),
        Conversation(1, "tagged", messages, None),
    ]


def test_a_completion_is_its_prompt_and_text(write_jsonl):
    record = {
        "request": {"model": "m", "prompt": "def f("},
        "response": {"choices": [{"text": "x):", "finish_reason": "length"}]},
    }
    assert read(write_jsonl("traffic.jsonl", [record])) == [
        Completion(0, "other", "def f(", "x):", None)
    ]


def test_an_answer_at_the_token_limit_is_kept_without_an_end(write_jsonl):
    cut, whole = read(write_jsonl("traffic.jsonl", [chat(finish_reason="length"), chat()]))
    assert (cut.answer_is_cut, whole.answer_is_cut) == (True, False)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_reasoning_is_kept_under_either_name(write_jsonl, key):
    (read_chat,) = read(write_jsonl("traffic.jsonl", [chat({**ANSWER, key: "hm"})]))
    assert read_chat.messages[1] == Message("assistant", "4", "hm")


CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
COMPLETION = {"choices": [{"text": "b", "finish_reason": "stop"}]}
UNUSABLE = [
    ({"request": {"messages": [QUESTION]}, "response": {"error": {"code": 500}}}, "error instead"),
    ({"request": {"messages": [QUESTION]}}, "error instead"),
    ({"request": {"messages": [QUESTION]}, "response": {"choices": []}}, "error instead"),
    ({"request": {"messages": [QUESTION]}, "response": {"choices": ["4"]}}, "error instead"),
    (chat(finish_reason=None), "finish_reason missing"),
    (chat(finish_reason="content_filter"), "finish_reason content_filter"),
    (chat(CALL, finish_reason="tool_calls"), "tool calls"),
    (chat(CALL), "tool calls"),
    (chat(request={"tools": [{"type": "function"}]}), "tool calls"),
    (chat(request={"functions": [{"name": "add"}]}), "tool calls"),
    (chat(request={"messages": [QUESTION, CALL, {"role": "tool", "content": "4"}]}), "tool calls"),
    (chat(request={"messages": [IMAGE]}), "images or other content"),
    (chat({"role": "assistant", "content": ""}), "empty answer"),
    ({"request": {"prompt": ["a", "b"]}, "response": COMPLETION}, "prompt that is not one text"),
    ({"request": {"prompt": "a", "echo": True}, "response": COMPLETION}, "echo or suffix"),
    ({"request": {"prompt": "a"}, "response": {"choices": COMPLETION["choices"] * 2}}, "several"),
]


@pytest.mark.parametrize(("record", "reason"), UNUSABLE)
def test_what_cannot_be_trained_on_is_counted_by_its_reason(write_jsonl, caplog, record, reason):
    documents = read(write_jsonl("traffic.jsonl", [record, chat(), record]))
    assert [document.document_id for document in documents] == [0]
    assert "2 of 3 records are not used (2 " + reason in caplog.text
    with pytest.raises(ConfigError, match=r"holds no document \(1 " + reason):
        read(write_jsonl("only.jsonl", [record]))


@pytest.mark.parametrize(
    "record",
    [
        {"request": "x"},
        {"request": {"input": "x"}},
        chat(request={"messages": "x"}),
        chat(request={"metadata": "x"}),
    ],
)
def test_another_form_is_an_error_with_file_and_line(write_jsonl, record):
    path = write_jsonl("traffic.jsonl", [chat(), record])
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}:2: request")
