import json

import pytest

from dpace_loadtest.conversation import Message
from dpace_loadtest.prompts import content_hash, load_conversations, scenario_workloads
from dpace_loadtest.scenario import ScenarioConfig
from dpace_serve.config import build_config
from dpace_serve.errors import ConfigError

GREETING = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "Good bye."},
]


def load(*workloads, **values):
    settings = {"duration_seconds": 1, "workloads": workloads, **values}
    return load_conversations(build_config(ScenarioConfig, settings, source="test"))


def write(tmp_path, *records):
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    return str(path)


def only(tmp_path, record, **settings):
    workload = {"name": "w", "source": "file", "file": write(tmp_path, record), **settings}
    ((conversation,),) = load(workload).values()
    return conversation


def test_openai_messages_are_asked_with_the_history_of_the_file(tmp_path):
    asked = only(tmp_path, {"messages": GREETING})
    assert asked.path == "/v1/chat/completions"
    # What came after the user's last message is the file's answer, and not asked.
    assert asked.body(0, []) == {"messages": GREETING[:4], "max_tokens": 64}


def test_a_session_asks_each_turn_after_the_servers_own_answers(tmp_path):
    asked = only(tmp_path, {"messages": GREETING}, sessions=True, max_tokens=9)
    assert asked.turns == ("Hi", "Bye")
    assert asked.body(0, []) == {"messages": GREETING[:2], "max_tokens": 9}
    messages = asked.body(1, ["Yo."])["messages"]
    assert messages[2] == {"role": "assistant", "content": "Yo."}
    assert messages[:2] + messages[3:] == GREETING[:2] + GREETING[3:4]
    assert asked.turn_key(0) != asked.turn_key(1)


def test_sharegpt_conversations_are_chats(tmp_path):
    said = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]
    asked = only(tmp_path, {"id": "x", "conversations": said})
    assert asked.body(0, [])["messages"] == [{"role": "user", "content": "2+2?"}]


def test_a_gsm8k_question_is_a_chat_and_a_humaneval_prompt_is_continued(tmp_path):
    question = only(tmp_path, {"question": "How many?", "answer": "#### 4"})
    assert question.body(0, [])["messages"] == [{"role": "user", "content": "How many?"}]
    record = {"task_id": "HumanEval/0", "prompt": "def f():\n", "canonical_solution": "x"}
    code = only(tmp_path, record)
    assert code.path == "/v1/completions"
    assert code.body(0, []) == {"prompt": "def f():\n", "max_tokens": 64}
    as_chat = only(tmp_path, record, as_chat=True)
    assert as_chat.body(0, [])["messages"] == [{"role": "user", "content": "def f():\n"}]


def test_the_key_of_a_prompt_follows_its_content_and_not_its_place(tmp_path):
    records = [{"prompt": "a"}, {"prompt": "b"}]
    workload = {"name": "w", "source": "file"}
    (forward,) = load(workload | {"file": write(tmp_path, *records)}).values()
    (backward,) = load(workload | {"file": write(tmp_path, *reversed(records))}).values()
    assert [one.key for one in forward] == [one.key for one in reversed(backward)]
    assert forward[0].key != forward[1].key


def test_without_workloads_all_bundled_ones_are_asked_alike():
    settings = {"duration_seconds": 1}
    scenario = build_config(ScenarioConfig, settings, source="test")
    assert [workload.share for workload in scenario_workloads(scenario)] == [1.0] * 8
    found = load_conversations(scenario)
    assert set(found) == {
        "json", "csv", "sql", "dates", "units", "arithmetic", "letters", "code"
    }  # fmt: skip
    assert {len(group) for group in found.values()} == {16}
    assert all(one.path == "/v1/completions" for one in found["code"])
    assert all(one.path == "/v1/chat/completions" for one in found["json"])


def test_synthetic_prompts_have_the_words_that_were_asked_for():
    workload = {"name": "w", "source": "synthetic", "min_words": 3, "max_words": 5}
    (made,) = load(workload | {"num_prompts": 200}).values()
    lengths = [len(one.turns[0].split()) for one in made]
    assert set(lengths) == {3, 4, 5}
    assert len(made) == 200
    (again,) = load(workload | {"num_prompts": 200}).values()
    (other,) = load(workload | {"num_prompts": 200}, seed=1).values()
    assert made == again
    assert made != other


def test_the_hash_of_a_report_changes_with_one_letter(tmp_path):
    def hashed(text):
        path = write(tmp_path, {"prompt": text})
        return content_hash(load({"name": "w", "source": "file", "file": path}))

    assert hashed("a") == hashed("a")
    assert hashed("a") != hashed("b")


def test_a_message_is_what_the_api_wants():
    assert Message("user", "Hi").to_dict() == {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"text": "a"}, "must be an object with one of"),
        ([1], "must be an object with one of"),
        ({"prompt": ""}, "must be a text, not empty"),
        ({"prompt": 3}, "must be a text, not empty"),
        ({"messages": "Hi"}, "must be a list of messages"),
        ({"messages": []}, "no message of the user"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "each message must have role"),
        ({"messages": [{"role": "user", "content": [1]}]}, "a text as content"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "each message must have from"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "no message of the user"),
    ],
)
def test_a_line_in_no_known_shape_is_refused_with_its_place(tmp_path, record, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        only(tmp_path, record)
    assert "prompts.jsonl:1" in str(caught.value)


def test_an_empty_file_and_an_unknown_bundled_workload_are_refused(tmp_path):
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match="holds no prompt"):
        load({"name": "w", "source": "file", "file": str(tmp_path / "empty")})
    with pytest.raises(ConfigError, match=r"the bundled prompts have json, .*, not poems"):
        load({"name": "poems"})
