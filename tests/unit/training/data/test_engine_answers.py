"""What the engine is asked and what becomes of its answers; the engine is a fake."""

import pytest

from dpace_serve.errors import ConfigError
from dpace_serve.vllm_engine.offline import OfflineEngine
from dpace_training.config import OfflineEngineConfig, RegenerateConfig
from dpace_training.data import engine_answers
from dpace_training.data.answers import answer_documents, generate
from dpace_training.data.conversations import Completion, Conversation, Message
from dpace_training.data.engine_answers import EngineWriter
from dpace_training.data.regenerate import regenerate_file

ANSWERS = RegenerateConfig(backend="vllm", max_new_tokens=12, batch_size=3)
ENGINE = OfflineEngineConfig()


@pytest.fixture
def engine(target, monkeypatch):
    """Class of a fake engine that answers with the target in this process."""

    class FakeEngine(OfflineEngine):
        def __init__(self, settings):
            FakeEngine.started.append(settings)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def generate(self, requests, *, temperature, end_ids):
            FakeEngine.asked.append(requests)
            assert end_ids == target.end_ids
            return [
                generate(
                    target,
                    [one.prompt_ids],
                    RegenerateConfig(max_new_tokens=one.max_tokens, temperature=temperature),
                )[0]
                for one in requests
            ]

    FakeEngine.started, FakeEngine.asked = [], []
    monkeypatch.setattr(engine_answers, "OfflineEngine", FakeEngine)
    return FakeEngine


def chat(index, *questions):
    messages = []
    for question in questions:
        messages += [Message("user", question), Message("assistant", "?")]
    return Conversation(index, "other", tuple(messages), None)


DOCUMENTS = [chat(0, "one"), Completion(1, "code", "def", "", None), chat(2, "two", "three")]


def write(target, documents, known=frozenset(), *, answers=ANSWERS, engine=ENGINE):
    writer = EngineWriter(target, answers, engine)
    return [document for group in writer.write(documents, known) for document in group]


def test_answers_are_those_of_the_target_in_this_process(target, engine):
    expected = answer_documents(target, DOCUMENTS, ANSWERS, description="answers")
    assert write(target, DOCUMENTS) == expected
    (settings,) = engine.started
    assert (settings.max_num_seqs, settings.max_model_len, settings.export) == (3, 512, None)


def test_only_what_is_missing_is_asked_and_nothing_missing_starts_no_engine(target, engine):
    (document,) = write(target, DOCUMENTS, {0, 2})
    assert document.document_id == 1
    assert write(target, DOCUMENTS, {0, 1, 2}) == []
    assert len(engine.started) == 1


def test_a_group_is_yielded_before_the_next_is_asked(target, engine, monkeypatch):
    monkeypatch.setattr(engine_answers, "BATCHES_PER_GROUP", 1)
    groups = EngineWriter(target, ANSWERS, ENGINE).write([chat(i, "x") for i in range(4)], set())
    assert [one.document_id for one in next(groups)] == [0, 1, 2]
    assert len(engine.asked) == 1
    assert [one.document_id for one in next(groups)] == [3]


def test_seeds_do_not_depend_on_the_order(target, engine):
    write(target, DOCUMENTS)
    write(target, DOCUMENTS[::-1])
    first, second = [
        {one.prompt_ids: one.seed for one in requests}
        for requests in engine.asked
        if len(requests) == 3
    ]
    assert first == second
    assert len(set(first.values())) == 3


def test_an_answer_gets_what_room_is_left(target, engine):
    prompt = "x" * 30
    (document,) = write(
        target,
        [Completion(0, "code", prompt, "", None)],
        engine=OfflineEngineConfig(max_model_len=35),
    )
    assert len(document.answer_ids) <= 5
    assert engine.asked[0][0].max_tokens == 5


def test_a_prompt_without_room_is_left_out_and_counted(target, engine, tmp_path, caplog):
    writer = EngineWriter(target, ANSWERS, OfflineEngineConfig(max_model_len=35))
    prompts = [Completion(i, "code", "x" * length, "", None) for i, length in ((3, 35), (4, 34))]
    found = regenerate_file(target, prompts, tmp_path / "answers.jsonl", ANSWERS, writer=writer)
    assert [document.document_id for document in found] == [4]
    assert "1 of 2 prompts leave no room for an answer in 35 tokens" in caplog.text


def test_more_room_than_the_target_has_is_refused(target):
    with pytest.raises(ConfigError, match=r"at most the target's 512 positions, got 513"):
        EngineWriter(target, ANSWERS, OfflineEngineConfig(max_model_len=513))


def test_answers_do_not_depend_on_batches(target):
    bigger = ANSWERS.model_copy(update={"batch_size": 99})
    hotter = ANSWERS.model_copy(update={"temperature": 1.0})
    settings = EngineWriter(target, ANSWERS, ENGINE).settings
    assert EngineWriter(target, bigger, ENGINE).settings == settings
    assert EngineWriter(target, hotter, ENGINE).settings != settings
    assert settings["backend"] == "vllm"
