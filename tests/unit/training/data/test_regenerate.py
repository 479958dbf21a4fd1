import json
import threading

import pytest

from dpace_serve.errors import ConfigError
from dpace_training.config import RegenerateConfig
from dpace_training.data import answers
from dpace_training.data.conversations import Completion, read_documents
from dpace_training.data.regenerate import regenerate_file

HOT = RegenerateConfig(temperature=2.0, max_new_tokens=6, batch_size=4, seed=5)
PROMPTS = [Completion(index, "code", "a" * (index + 1), "", None) for index in range(10)]


@pytest.fixture
def complete(target, tmp_path):
    return regenerate_file(target, PROMPTS, tmp_path / "whole.jsonl", HOT)


class RunCutError(Exception):
    pass


def cut_after(monkeypatch, batches):
    real, calls = answers.answer_batch, []

    def answer(*args, **kwargs):
        if len(calls) == batches:
            raise RunCutError
        calls.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(answers, "answer_batch", answer)
    return calls


def test_the_file_holds_all_answers_in_the_order_of_the_prompts(complete, tmp_path):
    assert read_documents(tmp_path / "whole.jsonl") == complete
    assert [document.prompt for document in complete] == [prompt.prompt for prompt in PROMPTS]
    records = [json.loads(line) for line in (tmp_path / "whole.jsonl").read_text().splitlines()]
    assert all(record["truncated"] for record in records)
    assert not (tmp_path / "whole.partial").exists()


def test_a_finished_file_is_read_and_not_made_again(target, complete, tmp_path, monkeypatch):
    cut_after(monkeypatch, 0)
    assert regenerate_file(target, PROMPTS, tmp_path / "whole.jsonl", HOT) == complete


def test_a_run_cut_in_the_middle_of_a_line_goes_on_to_the_same_answers(
    target, complete, tmp_path, monkeypatch
):
    destination = tmp_path / "cut.jsonl"
    with monkeypatch.context() as patch:
        cut_after(patch, 2)
        with pytest.raises(RunCutError):
            regenerate_file(target, PROMPTS, destination, HOT)
    partial = tmp_path / "cut.partial"
    content = partial.read_bytes()
    assert content.count(b"\n") == 8
    partial.write_bytes(content[:-20])  # line 8 is torn, so its whole batch is sampled again
    with monkeypatch.context() as patch:
        calls = cut_after(patch, 99)
        assert regenerate_file(target, PROMPTS, destination, HOT) == complete
        assert len(calls) == 2
    assert destination.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_answers_made_otherwise_are_refused(target, complete, tmp_path):
    cooler = HOT.model_copy(update={"temperature": 0.0})
    with pytest.raises(ConfigError, match="answers there were made with another settings"):
        regenerate_file(target, PROMPTS, tmp_path / "whole.jsonl", cooler)
    with pytest.raises(ConfigError, match="another prompts"):
        regenerate_file(target, PROMPTS[:4], tmp_path / "whole.jsonl", HOT)


def test_a_key_file_from_before_there_were_backends_stays_valid(target, complete, tmp_path):
    key = json.loads((tmp_path / "whole.key.json").read_text())
    assert key["settings"] == {
        "enabled": True,
        "temperature": 2.0,
        "max_new_tokens": 6,
        "batch_size": 4,
        "seed": 5,
    }
    assert sorted(key) == ["prompts", "settings", "target", "target_dtype"]


def test_documents_keep_their_ids_when_finished_answers_are_read_again(target, tmp_path):
    documents = [Completion(document_id, "other", "abc", "", None) for document_id in (3, 8)]
    config = RegenerateConfig(max_new_tokens=4)
    first = regenerate_file(target, documents, tmp_path / "answers.jsonl", config)
    again = regenerate_file(target, documents, tmp_path / "answers.jsonl", config)
    assert [document.document_id for document in again] == [3, 8]
    assert again == first


@pytest.mark.parametrize("line", [b"{torn\n", b"[1]\n", b"{}\n", b"\xff\xfe\n"])
def test_a_damaged_line_of_kept_answers_is_one_clear_line(target, complete, tmp_path, line):
    file = tmp_path / "whole.jsonl"
    file.write_bytes(line + file.read_bytes())
    with pytest.raises(ConfigError, match=r"whole.jsonl:1: damaged, not an answer") as caught:
        regenerate_file(target, PROMPTS, file, HOT)
    assert "\n" not in str(caught.value)


def test_of_two_that_come_together_one_answers_and_both_read_the_same(
    target, complete, tmp_path, monkeypatch
):
    calls, found = cut_after(monkeypatch, 3), []  # three batches are all: a fourth would raise

    def regenerate():
        found.append(regenerate_file(target, PROMPTS, tmp_path / "both.jsonl", HOT))

    threads = [threading.Thread(target=regenerate) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [complete, complete]
    assert len(calls) == 3
    assert not (tmp_path / "both.partial").exists()
