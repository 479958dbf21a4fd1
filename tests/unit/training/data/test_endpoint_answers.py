import dataclasses
import json
import logging
import os
import time

import pytest

from dpace_serve.errors import ConfigError, EngineError
from dpace_training.config import EndpointConfig, RegenerateConfig
from dpace_training.data.conversations import Completion, Conversation, Message, read_documents
from dpace_training.data.endpoint import NO_KEY, connect
from dpace_training.data.endpoint_answers import EndpointWriter
from dpace_training.data.regenerate import regenerate_file
from dpace_training.data.tokenize import chat_prompt_ids, tokenize_document

from .scripted_endpoint import Refusal, reply, running  # noqa: TID252 - tests have no package

END = 257  # <|im_end|> of the toy tokenizer
KEY = "a-secret-of-mine"


def user(text):
    return Message("user", text)


def chat(index, *questions):
    messages = []
    for question in questions:
        messages += [user(question), Message("assistant", "?")]
    return Conversation(index, "other", tuple(messages), None)


def said(body):
    return body["messages"][-1]["content"] if "messages" in body else body["prompt"]


def settings(endpoint, *, temperature=0.0, seed=0, **extra):
    where = EndpointConfig(base_url=endpoint.url, model="tiny", **extra)
    return RegenerateConfig(
        backend="openai", openai=where, max_new_tokens=8, temperature=temperature, seed=seed
    )


def answers(target, endpoint, documents, known=frozenset(), **extra):
    writer = EndpointWriter(target, settings(endpoint, **extra))
    groups = list(writer.write(documents, known))
    return {document.document_id: document for group in groups for document in group}


def with_ids(target):
    """A server that returns ids: the answer to a question is the question in capitals."""

    def script(body):
        text = said(body).upper()
        ids = [*target.tokenizer.encode(text), END]
        messages = [Message(one["role"], one["content"]) for one in body.get("messages", ())]
        prompt = (
            chat_prompt_ids(target.tokenizer, messages)
            if messages
            else target.tokenizer.encode(body["prompt"])
        )
        # The text of a reasoning server leaves out a part; the ids are the whole answer.
        return reply(body, "a part", token_ids=ids, prompt_token_ids=prompt)

    return script


def test_turns_are_asked_one_after_another_on_top_of_the_answers(target):
    with running(with_ids(target)) as endpoint:
        answered = answers(target, endpoint, [chat(4, "one", "two")])
    assert answered[4].messages == (
        user("one"),
        Message("assistant", "ONE"),
        user("two"),
        Message("assistant", "TWO"),
    )
    assert answered[4].answer_ids == (*target.tokenizer.encode("TWO"), END)
    assert [len(body["messages"]) for body in endpoint.bodies] == [1, 3]
    assert endpoint.bodies[1]["messages"][1] == {"role": "assistant", "content": "ONE"}


def test_a_completion_is_continued_without_a_chat(target):
    with running(with_ids(target)) as endpoint:
        answered = answers(target, endpoint, [Completion(0, "code", "def", "old", None)])
    assert answered[0] == Completion(
        0, "code", "def", "DEF", (*target.tokenizer.encode("DEF"), END)
    )
    assert "messages" not in endpoint.bodies[0]


def test_the_whole_distribution_is_asked_for(target):
    with running(with_ids(target)) as endpoint:
        answers(target, endpoint, [chat(0, "x")], temperature=0.7)
    (body,) = endpoint.bodies
    asked = {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    assert asked.items() <= body.items()
    assert body["max_tokens"] == 8
    assert body["stop_token_ids"] == [END]


def test_text_without_ids_is_encoded_again_and_that_is_said_once(target, caplog):
    documents = [chat(0, "one"), chat(1, "two"), Completion(2, "code", "def", "", None)]
    with running(lambda body: reply(body, said(body).upper())) as endpoint:
        answered = answers(target, endpoint, documents)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "returns no token ids" in caplog.text
    assert answered[0].answer_ids is None
    tokenized = tokenize_document(
        target.tokenizer, answered[0], end_ids=target.end_ids, max_tokens=99
    )
    trained = [i for i, on in zip(tokenized.token_ids, tokenized.loss_mask, strict=True) if on]
    assert trained == [*target.tokenizer.encode("ONE"), END]
    assert answered[2].answer_ids == (*target.tokenizer.encode("DEF"), END)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_an_answer_whose_reasoning_is_taken_out_is_refused(target, name):
    def script(body):
        whole = reply(body, "4")
        whole["choices"][0]["message"][name] = "2 and 2"
        return whole

    with (
        running(script) as endpoint,
        pytest.raises(ConfigError, match=r"document 5: the server takes the reasoning out"),
    ):
        answers(target, endpoint, [chat(5, "2+2?")])


def test_a_text_cut_at_the_limit_has_no_end_token_and_ends_its_conversation(target):
    with running(lambda body: reply(body, "cut", finish_reason="length")) as endpoint:
        answered = answers(target, endpoint, [chat(0, "one", "two")])
    assert len(answered[0].messages) == 2
    assert answered[0].answer_ids == tuple(target.tokenizer.encode("cut"))


def test_a_server_that_refuses_extensions_is_asked_without_them_from_then_on(target):
    def script(body):
        if "top_k" in body:
            return Refusal(400, "Unrecognized request argument supplied: top_k")
        return reply(body, "yes")

    with running(script) as endpoint:
        answered = answers(target, endpoint, [chat(i, "x") for i in range(3)], max_concurrency=1)
    assert len(answered) == 3
    assert ["top_k" in body for body in endpoint.bodies] == [True, False, False, False]


def test_the_thinking_mode_is_asked_for_even_without_other_extensions(target):
    def script(body):
        return Refusal(400, "top_k?") if "top_k" in body else reply(body, "yes")

    told = dataclasses.replace(target, enable_thinking=False)
    with running(script) as endpoint:
        answers(told, endpoint, [chat(i, "x") for i in range(2)], max_concurrency=1)
    asked = [body["chat_template_kwargs"] for body in endpoint.bodies]
    assert asked == [{"enable_thinking": False}] * 3


def test_the_environments_settings_for_another_server_stay_at_home(target, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-x")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-x")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer mine")
    with running(with_ids(target)) as endpoint:
        client = connect(settings(endpoint).openai)
        assert (client.organization, client.project) == (None, None)
        answers(target, endpoint, [chat(0, "x")])
    assert endpoint.keys == [f"Bearer {NO_KEY}"]
    assert os.environ["OPENAI_ORG_ID"] == "org-x"


def test_a_complete_answer_takes_the_place_of_one_that_was_cut(target):
    cut = dataclasses.replace(chat(0, "x"), answer_is_cut=True)
    with running(lambda body: reply(body, "yes")) as endpoint:
        answered = answers(target, endpoint, [cut])
    assert not answered[0].answer_is_cut


def test_a_busy_server_is_asked_again(target):
    refusals = [Refusal(429), Refusal(503), Refusal(500)]
    with running(lambda body: refusals.pop() if refusals else reply(body, "yes")) as endpoint:
        answered = answers(target, endpoint, [chat(0, "x")], max_retries=3)
    assert answered[0].messages[-1].content == "yes"
    assert len(endpoint.bodies) == 4


def test_a_server_that_stays_busy_is_one_clear_line(target):
    with running(lambda _: Refusal(503, "too\nbusy")) as endpoint:
        with pytest.raises(EngineError, match=r"^document 7: [^\n]*failed 2 times [^\n]*$"):
            answers(target, endpoint, [chat(7, "x")], max_retries=1)
        assert len(endpoint.bodies) == 2


def test_a_server_that_is_not_there_is_one_clear_line(target):
    with running(with_ids(target)) as endpoint:
        pass
    with pytest.raises(EngineError, match=r"^document 7: [^\n]*does not answer[^\n]*$"):
        answers(target, endpoint, [chat(7, "x")], max_retries=0)


def test_the_key_comes_from_its_file_and_stands_nowhere_else(target, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    with running(with_ids(target)) as endpoint:
        config = settings(endpoint, api_key_file=file)
        writer = EndpointWriter(target, config)
        destination = tmp_path / "answers.jsonl"
        regenerate_file(target, [chat(0, "x")], destination, config, writer=writer)
    assert endpoint.keys == [f"Bearer {KEY}"]
    written = [path for path in tmp_path.iterdir() if path != file]
    assert sorted(path.name for path in written) == ["answers.jsonl", "answers.key.json"]
    assert not any(KEY in path.read_text() for path in written)
    assert KEY not in config.model_dump_json()
    assert KEY not in caplog.text


def test_a_refused_key_is_not_quoted(target, tmp_path):
    file = tmp_path / "key"
    file.write_text(KEY)
    with (
        running(lambda _: Refusal(401, f"wrong key {KEY}")) as endpoint,
        pytest.raises(ConfigError, match="refuses the API key") as caught,
    ):
        answers(target, endpoint, [chat(0, "x")], api_key_file=file)
    assert KEY not in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("status", [400, 503])
def test_a_key_is_not_quoted_whatever_the_server_says(target, tmp_path, status):
    file = tmp_path / "key"
    file.write_text(KEY)
    with (
        running(lambda _: Refusal(status, f"no budget for {KEY}")) as endpoint,
        pytest.raises((ConfigError, EngineError), match=r"no budget for \*\*\*") as caught,
    ):
        answers(target, endpoint, [chat(0, "x")], api_key_file=file, max_retries=0)
    assert KEY not in str(caught.value)


def test_a_key_given_in_place_of_its_file_is_not_quoted(target, tmp_path):
    with (
        running(with_ids(target)) as endpoint,
        pytest.raises(ConfigError, match="api_key_file cannot be read") as caught,
    ):
        answers(target, endpoint, [chat(0, "x")], api_key_file=tmp_path / KEY)
    assert KEY not in str(caught.value)
    assert endpoint.bodies == []


def test_a_key_of_the_environment_is_not_handed_to_the_server(target, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with running(with_ids(target)) as endpoint:
        answers(target, endpoint, [chat(0, "x")])
    assert endpoint.keys == ["Bearer none"]


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_a_missing_or_empty_key_file_is_one_clear_line(target, tmp_path, content):
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    with (
        running(with_ids(target)) as endpoint,
        pytest.raises(ConfigError, match=r"cannot be read|holds no API key"),
    ):
        answers(target, endpoint, [chat(0, "x")], api_key_file=file)
    assert endpoint.bodies == []


def test_a_run_that_failed_goes_on_with_what_is_missing(target, tmp_path):
    documents = [chat(index, f"question {index}") for index in range(6)]
    destination = tmp_path / "answers.jsonl"
    good = with_ids(target)

    def failing(body):
        return Refusal(404, "no such model") if said(body) == "question 3" else good(body)

    def write(endpoint):
        config = settings(endpoint, max_concurrency=2)
        writer = EndpointWriter(target, config)
        return regenerate_file(target, documents, destination, config, writer=writer)

    with running(failing) as endpoint, pytest.raises(ConfigError, match="document 3: "):
        write(endpoint)
    lines = (tmp_path / "answers.partial").read_text().splitlines()
    kept = {json.loads(line)["document_id"] for line in lines}
    assert {0, 1, 2} <= kept < set(range(6))
    with running(good) as endpoint:  # at another address
        written = write(endpoint)
        assert {said(body) for body in endpoint.bodies} == {
            f"question {index}" for index in set(range(6)) - kept
        }
    assert read_documents(destination) == written
    assert [one.messages[-1].content for one in written] == [f"QUESTION {i}" for i in range(6)]


def test_a_prompt_that_the_server_reads_otherwise_is_refused(target):
    def script(body):
        return reply(body, "x", token_ids=[1, END], prompt_token_ids=[1, 2, 3])

    with running(script) as endpoint, pytest.raises(ConfigError, match="made 3 prompt tokens"):
        answers(target, endpoint, [chat(0, "x")])


def test_an_answer_that_ends_with_another_token_is_refused(target):
    with (
        running(lambda body: reply(body, "x", token_ids=[1, 2])) as endpoint,
        pytest.raises(ConfigError, match=r"with token 2, the end tokens in .* are \[257\]"),
    ):
        answers(target, endpoint, [chat(0, "x")])


def test_a_withheld_answer_is_one_clear_line(target):
    with (
        running(lambda body: reply(body, None, finish_reason="content_filter")) as endpoint,
        pytest.raises(ConfigError, match="document 0: the server gave no answer"),
    ):
        answers(target, endpoint, [chat(0, "x")])


def test_seeds_follow_run_document_and_turn_and_not_the_order(target):
    documents = [chat(index, f"question {index}", "more") for index in range(4)]

    def seeds(documents, seed):
        with running(with_ids(target)) as endpoint:
            answers(target, endpoint, documents, seed=seed, temperature=1.0)
        return {
            (body["messages"][0]["content"], len(body["messages"])): body["seed"]
            for body in endpoint.bodies
        }

    first = seeds(documents, 0)
    assert len(set(first.values())) == 8
    assert all(0 <= seed < 2**31 for seed in first.values())
    assert seeds(documents[::-1], 0) == first
    assert first.items() >= seeds(documents[2:], 0).items()
    assert not set(first.values()) & set(seeds(documents, 1).values())


def test_no_more_requests_are_under_way_than_allowed(target):
    good = with_ids(target)

    def slow(body):
        time.sleep(0.05)
        return good(body)

    with running(slow) as endpoint:
        answers(target, endpoint, [chat(i, "x") for i in range(12)], max_concurrency=3)
    assert endpoint.most_at_once == 3


def test_answers_are_claimed_by_model_and_not_by_address(target, tmp_path):
    def write(endpoint, model):
        where = EndpointConfig(base_url=endpoint.url, model=model)
        config = RegenerateConfig(backend="openai", openai=where)
        writer = EndpointWriter(target, config)
        return regenerate_file(
            target, [chat(0, "x")], tmp_path / "answers.jsonl", config, writer=writer
        )

    with running(with_ids(target)) as endpoint:
        written = write(endpoint, "tiny")
    with running(with_ids(target)) as elsewhere:
        assert write(elsewhere, "tiny") == written
        with pytest.raises(ConfigError, match="another settings"):
            write(elsewhere, "huge")
