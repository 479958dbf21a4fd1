"""What the engine is asked and what becomes of its answers; the engine is a fake."""

import pytest

from dpace_serve.errors import ConfigError
from dpace_serve.vllm_engine.offline import OfflineEngine
from dpace_serve.vllm_engine.offline_calls import FinishedAnswer
from dpace_training.config import OfflineEngineConfig, RegenerateConfig
from dpace_training.data import engine_answers
from dpace_training.data.answers import answer_documents, generate
from dpace_training.data.conversations import Completion, Conversation, Message
from dpace_training.data.engine_answers import EngineWriter
from dpace_training.data.regenerate import regenerate_file
from dpace_training.data.tokenize import chat_prompt_ids

ANSWERS = RegenerateConfig(backend="vllm", max_new_tokens=12, batch_size=3)
ENGINE = OfflineEngineConfig()


@pytest.fixture
def engine(target, monkeypatch):
    """Class of a fake engine: the target in this process, which ends the last prompts first."""

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
            for place in reversed(range(len(requests))):
                ids = FakeEngine.answer(requests[place], temperature)
                yield [FinishedAnswer(place, ids)]

        @staticmethod
        def answer(request, temperature):
            settings = RegenerateConfig(max_new_tokens=request.max_tokens, temperature=temperature)
            return generate(target, [request.prompt_ids], settings)[0]

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


def answer_file(target, documents, destination):
    writer = EngineWriter(target, ANSWERS, ENGINE)
    return regenerate_file(target, documents, destination, ANSWERS, writer=writer)


def in_order(documents):
    return sorted(documents, key=lambda document: document.document_id)


def test_answers_are_those_of_the_target_in_this_process(target, engine):
    expected = answer_documents(target, DOCUMENTS, ANSWERS, description="answers")
    assert in_order(write(target, DOCUMENTS)) == expected
    (settings,) = engine.started
    assert (settings.max_num_seqs, settings.max_model_len, settings.export) == (3, 512, None)


def test_only_what_is_missing_is_asked_and_nothing_missing_starts_no_engine(target, engine):
    (document,) = write(target, DOCUMENTS, {0, 2})
    assert document.document_id == 1
    assert write(target, DOCUMENTS, {0, 1, 2}) == []
    assert len(engine.started) == 1


def yes(target, engine):
    """Let the engine say `yes` to everything, and end there."""
    ids = (*target.tokenizer.encode("yes"), min(target.end_ids))
    engine.answer = staticmethod(lambda request, temperature: ids)


def test_a_document_is_yielded_when_its_last_answer_is_there(target, engine, monkeypatch):
    monkeypatch.setattr(engine_answers, "BATCHES_PER_GROUP", 1)
    yes(target, engine)
    prompts = [chat(0, "a"), chat(1, "b", "c"), chat(2, "d"), chat(3, "e")]
    groups = EngineWriter(target, ANSWERS, ENGINE).write(prompts, set())
    seen = [([one.document_id for one in group], len(engine.asked)) for group in groups]
    # Three make a group; document 1 is asked once more before the next one.
    assert seen == [([2], 1), ([0], 1), ([1], 2), ([3], 3)]


def test_a_kill_loses_only_what_is_under_way(target, engine, tmp_path):
    class Cut(engine):
        def generate(self, requests, *, temperature, end_ids):
            for number, answers in enumerate(
                super().generate(requests, temperature=temperature, end_ids=end_ids)
            ):
                if number == 2:
                    raise KeyboardInterrupt
                yield answers

    prompts = [chat(i, "x") for i in range(4)]
    destination = tmp_path / "answers.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_answers, "OfflineEngine", Cut)
        with pytest.raises(KeyboardInterrupt):
            answer_file(target, prompts, destination)
    engine.asked.clear()
    found = answer_file(target, prompts, destination)
    assert [len(requests) for requests in engine.asked] == [2]
    assert [document.document_id for document in found] == [0, 1, 2, 3]


@pytest.mark.parametrize("with_another", [False, True])
def test_a_later_turn_without_room_ends_its_conversation_before_it(target, engine, with_another):
    yes(target, engine)
    first = len(chat_prompt_ids(target.tokenizer, chat(0, "a").messages[:1], place="0"))
    room = OfflineEngineConfig(max_model_len=first + 40)
    prompts = [chat(0, "a", "b" * 40), *([chat(1, "a", "b")] if with_another else [])]
    found = in_order(write(target, prompts, engine=room))
    assert [len(document.messages) for document in found] == [2, 4][: len(prompts)]
    assert all(document.messages[-1] == Message("assistant", "yes") for document in found)


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
