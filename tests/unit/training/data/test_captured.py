"""Captures of a server become documents in exactly its tokens; what does not fit is one line."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dpace_serve.errors import ConfigError
from dpace_serve.live.capture import CapturedRequest, CaptureWriter
from dpace_serve.serve_config import CaptureConfig
from dpace_training.config import EndpointConfig, RegenerateConfig
from dpace_training.data.answers import answer_documents
from dpace_training.data.captured_answer import CapturedAnswer
from dpace_training.data.captured_origin import warn_of_other_name
from dpace_training.data.conversations import Completion, Conversation, parse_record, to_record
from dpace_training.data.endpoint_answers import EndpointWriter
from dpace_training.data.input_config import InputConfig
from dpace_training.data.refused_documents import require_rendering
from dpace_training.data.regenerate import regenerate_file
from dpace_training.data.sources import read_source
from dpace_training.data.tokenize import tokenize_document, tokenize_pieces

from .scripted_endpoint import reply, running  # noqa: TID252 - tests have no package

LINE = {
    "prompt_token_ids": [5, 6, 7],
    "output_token_ids": [8, 257],
    "finish_reason": "stop",
    "workload": "code",
    "model": "tiny",
    "drafter": "dpace",
    "revision": "0a1b",
    "temperature": 0.5,
    "time": "2026-11-23T12:00:00.000+00:00",
}
READ = CapturedAnswer(0, "code", (5, 6, 7), (8, 257), "tiny")


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "capture"
    made.mkdir()
    return made


def put(folder, number, *records, torn=""):
    path = folder / f"capture-{number:05d}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + torn)
    return path


def read(path, **options):
    return read_source(path, InputConfig(**options), needs_prompt=True)


# --- reading ---


def test_what_the_server_writes_is_read_back_token_for_token(tmp_path):
    config = CaptureConfig(folder=tmp_path / "capture", workloads=("code",))
    writer = CaptureWriter(config, print, now=lambda: datetime(2026, 11, 23, 12, tzinfo=UTC))
    writer.write(CapturedRequest([5, 6, 7], [8, 257], "stop", "code", "tiny", "dpace", "0a1b", 0.5))
    writer.write(CapturedRequest([9], [10], "length", "code", "tiny", "dpace", "0a1b", 1.0))
    writer.close(timeout_seconds=10.0)
    (file,) = (tmp_path / "capture").iterdir()
    assert json.loads(file.read_text().splitlines()[0]) == LINE
    expected = [READ, CapturedAnswer(1, "code", (9,), (10,), "tiny")]
    assert read(tmp_path / "capture") == expected
    assert read(file) == expected


def test_a_folder_is_read_in_the_order_of_its_files(folder):
    for number in (2, 100_000, 0, 11):
        put(folder, number, LINE | {"output_token_ids": [number]})
    (folder / "notes.txt").write_text("not a capture")
    assert [document.answer_ids for document in read(folder)] == [(0,), (2,), (11,), (100_000,)]


@pytest.mark.parametrize("torn", ["{", '{"prompt_token_ids": [5, 6', json.dumps(LINE)[:-1]])
def test_a_torn_last_line_is_left_out_and_counted(folder, caplog, torn):
    put(folder, 0, LINE, torn=torn)
    put(folder, 1, torn=torn)
    put(folder, 2, LINE)
    assert [document.document_id for document in read(folder)] == [0, 1]
    assert f"{folder}: the last line of 2 of 3 files is torn and not used" in caplog.text


def test_a_last_line_that_only_lacks_its_end_is_used(folder, caplog):
    put(folder, 0, LINE, torn=json.dumps(LINE))
    assert len(read(folder)) == 2
    assert caplog.text == ""


def test_damage_elsewhere_is_an_error_with_its_place(folder):
    path = put(folder, 0, LINE, torn='{"prompt\n')
    with pytest.raises(ConfigError, match=rf"{path}:2: not valid JSON"):
        read(folder)


def test_nothing_but_torn_lines_is_no_document(folder):
    put(folder, 0, torn="{")
    with pytest.raises(ConfigError, match="holds no document"):
        read(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"finish_reason": "abort"}, "finish_reason abort"),
        ({"finish_reason": None}, "finish_reason missing"),
        ({"output_token_ids": []}, "empty answer"),
    ],
)
def test_what_cannot_be_trained_on_is_counted(folder, caplog, change, reason):
    put(folder, 0, LINE, LINE | change)
    assert read(folder) == [READ]
    assert f"1 of 2 records are not used (1 {reason})" in caplog.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt_token_ids": []}, r"prompt_token_ids: .* at least 1"),
        ({"prompt_token_ids": [5, -1]}, r"prompt_token_ids\.1: .* greater than or equal to 0"),
        ({"output_token_ids": ["8"]}, r"output_token_ids\.0: .* valid integer"),
        ({"prompt_token_ids": "abc"}, r"prompt_token_ids: .* valid tuple"),
    ],
)
def test_a_line_of_another_form_is_one_clear_error(folder, change, said):
    path = put(folder, 0, LINE, LINE | change)
    with pytest.raises(ConfigError, match=rf"^{path}:2: {said}.*Correct the line\.$"):
        read(folder)
    assert read(folder, invalid="skip") == [READ]


def test_a_chat_that_also_has_prompt_tokens_is_read_as_the_chat(write_jsonl):
    messages = [{"role": "user", "content": "a"}]
    path = write_jsonl("chat.jsonl", [{"messages": messages} | LINE])
    assert isinstance(read(path)[0], Conversation)


def test_our_own_form_is_read_back_as_the_same_document():
    for document in (READ, CapturedAnswer(3, "x", (1,), None, None)):
        record = json.loads(json.dumps(to_record(document)))
        assert parse_record(record, document_id=document.document_id, place="here") == document


# --- whose answers they are ---


def test_answers_of_several_models_are_refused_until_one_is_named(folder, caplog):
    put(folder, 0, LINE, LINE | {"model": "big"}, LINE)
    with pytest.raises(ConfigError, match=r"of the models big, tiny\. Set input\.model"):
        read(folder)
    assert [document.model for document in read(folder, model="big")] == ["big"]
    assert "2 of 3 records are not used (2 answer of another model)" in caplog.text


@pytest.mark.parametrize(
    ("model", "is_told"),
    [("tiny", False), ("org/tiny", False), (None, False), ("big", True), ("tiny/big", True)],
)
def test_another_name_than_the_targets_is_told(caplog, model, is_told):
    documents = [CapturedAnswer(0, "code", (1,), (2,), model), Completion(1, "x", "a", "", None)]
    warn_of_other_name(documents, Path("models/tiny"), "kept")
    assert ("If that is the same model, say so with input.model=" in caplog.text) is is_told


def test_a_token_that_the_target_does_not_have_is_refused(target):
    require_rendering(target, CapturedAnswer(0, "x", (258,), (258,), None))  # the last one
    for document in (
        CapturedAnswer(7, "x", (5, 259), (8,), None),
        CapturedAnswer(7, "x", (5,), (8, 259), None),
    ):
        with pytest.raises(ConfigError, match=r"document 7: holds token 259, the .* has 259\."):
            require_rendering(target, document)


def test_as_a_prompt_it_is_refused_before_the_target_answers(target):
    documents = [CapturedAnswer(7, "x", (5, 259), (8,), None)]
    settings = RegenerateConfig(max_new_tokens=2)
    with pytest.raises(ConfigError, match="document 7: holds token 259"):
        answer_documents(target, documents, settings, description="")


# --- tokens ---


def test_its_tokens_are_used_as_they_are_and_the_answer_is_trained_on(target):
    document = CapturedAnswer(4, "code", (5, 6, 7), (8, 257), "tiny")
    (piece,) = tokenize_pieces(target.tokenizer, document, end_ids=target.end_ids, max_tokens=9)
    assert piece.token_ids == (5, 6, 7, 8, 257)
    assert piece.loss_mask == (False, False, False, True, True)
    assert (piece.workload, piece.document_id, piece.answer_start) == ("code", 4, 3)


def test_it_is_cut_at_the_limit_of_tokens(target):
    document = CapturedAnswer(4, "code", (5, 6, 7), (8, 9, 257), "tiny")
    (piece,) = tokenize_pieces(target.tokenizer, document, end_ids=target.end_ids, max_tokens=5)
    assert piece.token_ids == (5, 6, 7, 8, 9)


# --- answered anew, as prompts are ---


def prompts(target):
    texts = ["say a", "say something else", "b"]
    return [Completion(index, "code", text, "", None) for index, text in enumerate(texts)]


def as_captured(target, document):
    """The same prompt in tokens, with an answer that the target did not write."""
    ids = tuple(target.tokenizer.encode(document.prompt))
    return CapturedAnswer(document.document_id, document.workload, ids, (1, 2), "tiny")


def tokens(target, documents):
    return [
        tokenize_document(target.tokenizer, one, end_ids=target.end_ids, max_tokens=99).token_ids
        for one in documents
    ]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_as_a_prompt_it_is_answered_as_the_text_of_the_same_tokens(target, tmp_path, temperature):
    settings = RegenerateConfig(max_new_tokens=6, batch_size=8, temperature=temperature)
    texts = prompts(target)
    captured = [as_captured(target, document) for document in texts]
    expected = tokens(target, regenerate_file(target, texts, tmp_path / "texts.jsonl", settings))
    path = tmp_path / "captured.jsonl"
    found = regenerate_file(target, captured, path, settings)
    assert tokens(target, found) == expected
    assert regenerate_file(target, captured, path, settings) == found  # read from the file


def test_chats_and_captured_prompts_are_answered_side_by_side(target, tmp_path):
    chat = parse_record(
        {"messages": [{"role": "user", "content": "a"}]}, document_id=0, place="here"
    )
    mixed = [chat, CapturedAnswer(1, "x", (5, 6), (1,), None), Completion(2, "x", "b", "", None)]
    answered = regenerate_file(
        target, mixed, tmp_path / "mixed.jsonl", RegenerateConfig(max_new_tokens=4)
    )
    assert [type(document) for document in answered] == [Conversation, CapturedAnswer, Completion]
    assert all(document.answer_ids for document in answered)


def test_a_server_is_asked_in_tokens_and_not_in_text(target):
    document = CapturedAnswer(0, "code", (5, 6, 7), (1,), "tiny")

    def script(body):
        return reply(body, "ab", token_ids=[8, 257], prompt_token_ids=[5, 6, 7])

    with running(script) as endpoint:
        where = EndpointConfig(base_url=endpoint.url, model="tiny")
        settings = RegenerateConfig(backend="openai", openai=where, max_new_tokens=4)
        ((answered,),) = EndpointWriter(target, settings).write([document], frozenset())
    assert [body["prompt"] for body in endpoint.bodies] == [[5, 6, 7]]
    assert answered == CapturedAnswer(0, "code", (5, 6, 7), (8, 257), "tiny")
