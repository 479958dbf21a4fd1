import json

import pytest

from dpace_serve.demo import bundle
from dpace_serve.demo import prompts as demo_prompts
from dpace_serve.errors import ConfigError
from dpace_serve.tuning.prompts import read_prompts
from dpace_serve.vllm_engine.tuning_calls import ChatMessage, TuningPrompt


def written(tmp_path, *lines):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def chat(*messages, **others):
    turns = [{"role": role, "content": content} for role, content in messages]
    return json.dumps({"messages": turns, **others})


def test_a_chat_of_any_length_with_a_system_message_is_read(tmp_path):
    turns = [("system", "Be brief."), ("user", "2 m?"), ("assistant", "200 cm"), ("user", "3 m?")]
    path = written(tmp_path, chat(*turns))
    expected = tuple(ChatMessage(*turn) for turn in turns)
    assert read_prompts(path) == [TuningPrompt(f"{path}:1", expected)]


def test_answers_at_the_end_of_a_chat_are_left_to_the_target(tmp_path):
    question, answer = ("user", "2 m in cm?"), ("assistant", "200 cm")
    path = written(tmp_path, chat(question, answer), chat(question, answer, answer))
    assert [prompt.asked for prompt in read_prompts(path)] == [(ChatMessage(*question),)] * 2


def test_a_text_needs_no_workload_and_an_empty_line_keeps_the_count_of_lines(tmp_path):
    path = written(tmp_path, "", '{"prompt": "x = "}')
    assert read_prompts(path) == [TuningPrompt(f"{path}:2", "x = ")]


def test_keys_of_data_sets_are_not_read(tmp_path):
    turn = {"role": "user", "content": "hi", "name": "ann"}
    line = json.dumps({"id": 7, "source": "web", "workload": "units", "messages": [turn]})
    (prompt,) = read_prompts(written(tmp_path, line))
    assert prompt.asked == (ChatMessage("user", "hi"),)


def test_the_bundled_prompts_are_those_that_the_demo_sends():
    asked = [prompt.asked for prompt in read_prompts(bundle.prompts_file())]
    assert asked == [
        (ChatMessage("user", prompt.text),) if prompt.is_chat else prompt.text
        for prompt in demo_prompts.read_prompts(bundle.prompts_file())
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", ":1: not valid JSON"),
        ('["prompt"]', ":1: must be an object with messages (a chat) or prompt"),
        ('{"text": "x"}', ":1: must be an object with messages (a chat) or prompt"),
        ('{"prompt": ""}', ":1: prompt: String should have at least 1 character"),
        ('{"messages": "x"}', ":1: messages: Input should be a valid list"),
        (chat(("tool", "x")), ":1: messages.0.role: Input should be 'system', 'user' or"),
        (chat(("user", None)), ":1: messages.0.content: Input should be a valid string"),
        (chat(), ":1: messages must end with one of the user"),
        (chat(("system", "x")), ":1: messages must end with one of the user"),
        (chat(("assistant", "x")), ":1: messages must end with one of the user"),
        ("", "holds no usable prompt"),
    ],
)
def test_a_bad_file_is_one_line_that_says_where_and_what(tmp_path, line, complaint):
    with pytest.raises(ConfigError) as caught:
        read_prompts(written(tmp_path, line))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_library_lines_that_this_python_lacks_are_left_out_aloud(tmp_path, caplog):
    lost = '{"workload": "code", "library_file": "no_such.py", "first_line": 1, "num_lines": 1}'
    (prompt,) = read_prompts(written(tmp_path, lost, '{"prompt": "x"}'))
    assert prompt.asked == "x"
    assert "prompts.jsonl:1: left out" in caplog.text
