"""Chats that the target's template does not take: one line before any work, or counted."""

import copy
import dataclasses
import logging
import shutil

import pytest

from dpace_serve.config import build_config
from dpace_serve.errors import ConfigError
from dpace_training.config import RegenerateConfig, TrainConfig
from dpace_training.data.answers import answer_documents
from dpace_training.data.conversations import Completion, Conversation, Message
from dpace_training.data.prepare import prepare
from dpace_training.data.tokenize import tokenize_document

# As Gemma's: no system message, and the roles take turns.
STRICT = (
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported.') }}{% endif %}"
    "{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
USER, ASSISTANT = Message("user", "hi"), Message("assistant", "yo")
GOOD = (USER, ASSISTANT)
SYSTEM = (Message("system", "be kind"), USER, ASSISTANT)
TWICE = (USER, ASSISTANT, USER, USER, ASSISTANT)


def with_template(target, template):
    tokenizer = copy.deepcopy(target.tokenizer)
    tokenizer.chat_template = template
    return dataclasses.replace(target, tokenizer=tokenizer)


def tokenize(target, document):
    tokenize_document(target.tokenizer, document, end_ids=target.end_ids, max_tokens=99)


def answer(target, document):
    answer_documents(target, [document], RegenerateConfig(), description="answers")


@pytest.mark.parametrize("use", [tokenize, answer])
@pytest.mark.parametrize(
    ("template", "said"),
    [
        (STRICT, "document 7: the chat template refuses the chat (System role not supported). Cor"),
        ("{{ messages[0].no.such }}", "document 7: the chat template refuses the chat ('dict obj"),
        ("{{ messages[0]['content'] + 3 }}", "document 7: the chat template refuses the chat (can"),
        ("{% for", "document 7: the chat template refuses the chat (unexpected 'end of template')"),
        (None, "document 7: is a chat, but the target's tokenizer has no chat template. Take"),
    ],
)
def test_a_template_that_fails_is_one_line_that_names_the_document(target, template, said, use):
    with pytest.raises(ConfigError) as caught:
        use(with_template(target, template), Conversation(7, "other", SYSTEM, None))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_target_without_template_still_takes_completions(target):
    plain = with_template(target, None)
    document = Completion(0, "code", "def ", "f", None)
    found = tokenize_document(plain.tokenizer, document, end_ids=plain.end_ids, max_tokens=99)
    assert plain.tokenizer.decode(list(found.token_ids)) == "def f"


@pytest.fixture
def prepared(target_folder, tokenizer, write_jsonl, tmp_path):
    folder = tmp_path / "strict"
    shutil.copytree(target_folder, folder)
    strict = copy.deepcopy(tokenizer)
    strict.chat_template = STRICT
    strict.save_pretrained(folder)

    def run(*chats, held_out=(GOOD,), invalid="refuse", enabled=True):
        def records(chats):
            return [
                {"messages": [{"role": m.role, "content": m.content} for m in chat]}
                for chat in chats
            ]

        own = {"invalid": invalid}
        values = {
            "target": str(folder),
            "output": str(tmp_path / "drafter"),
            "data": {
                "conversations": str(write_jsonl("chats.jsonl", records(chats))),
                "input": own,
                "work": str(tmp_path / "work"),
                "regenerate": {"enabled": enabled, "max_new_tokens": 4},
                "min_agreement": 0,
            },
            "drafter": {"num_hidden_layers": 1, "block_size": 4, "num_taps": 2},
            "evaluation": {
                "conversations": str(write_jsonl("held.jsonl", records(held_out))),
                "input": own,
                "max_new_tokens": 4,
            },
        }
        return prepare(build_config(TrainConfig, values, source="the test"))

    return run


@pytest.mark.parametrize("chats", [{"held_out": (GOOD, TWICE)}, {}])
def test_a_refused_chat_ends_the_run_before_the_first_answer(prepared, tmp_path, chats):
    own = (GOOD,) if chats else (GOOD, TWICE)
    file = tmp_path / ("held.jsonl" if chats else "chats.jsonl")
    with pytest.raises(ConfigError, match="roles must alternate") as caught:
        prepared(*own, **chats)
    assert str(caught.value).startswith(f"{file}: document 1: the chat template refuses")
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("enabled", [True, False])
def test_refused_chats_can_be_left_out_and_are_counted(prepared, tmp_path, caplog, enabled):
    with caplog.at_level(logging.WARNING, logger="dpace_training"):
        data = prepared(
            GOOD, TWICE, SYSTEM, held_out=(SYSTEM, GOOD), invalid="skip", enabled=enabled
        )
    assert [document.document_id for document in data.documents] == [0]
    assert [document.document_id for document in data.held_out] == [1]
    for counts in ("chats.jsonl: 2 of 3", "held.jsonl: 1 of 2"):
        assert f"{tmp_path}/{counts} documents are not used. The first: document" in caplog.text


def test_where_all_chats_are_refused_nothing_is_left_to_do(prepared):
    with pytest.raises(ConfigError, match=r"no document can be used. The first: document 0: the"):
        prepared(SYSTEM, TWICE, invalid="skip")
