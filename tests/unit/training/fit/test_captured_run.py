"""From a server's capture to a drafter."""

import json
import logging

import pytest

from dpace_serve.errors import ConfigError
from dpace_training.config import RegenerateConfig
from dpace_training.data.prepare import prepare
from dpace_training.fit.run import train


@pytest.fixture
def capture(build, tmp_path):
    """What a server of the target would have captured, at temperature 0, of the usual prompts."""
    folder = tmp_path / "capture"
    folder.mkdir()

    def keep(documents, **changes):
        lines = [
            {
                "prompt_token_ids": document.token_ids[: document.answer_start],
                "output_token_ids": document.token_ids[document.answer_start :],
                "finish_reason": "length",
                "workload": document.workload,
                "model": "tiny",
            }
            | changes
            for document in documents
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "capture-00000.jsonl").write_text(text)
        return folder

    return keep


def captured(build, folder, **changes):
    changes = {"data__input__model": "tiny"} | changes
    work = str(folder.parent / "captured-work")
    return build(data__conversations=str(folder), data__work=work, **changes)


def same_tokens(found, expected):
    return [(one.token_ids, one.loss_mask, one.workload) for one in found] == [
        (one.token_ids, one.loss_mask, one.workload) for one in expected
    ]


def test_a_capture_gives_the_documents_that_the_target_writes_itself(
    build, capture, tmp_path, caplog
):
    written = prepare(build()).documents
    with caplog.at_level(logging.INFO):
        found = prepare(captured(build, capture(written)))
    assert same_tokens(found.documents, written)
    assert found.agreement == 1.0
    assert "10 captured answers are kept as the server gave them" in caplog.text
    # Nothing was answered again.
    assert not list((tmp_path / "captured-work").glob("answers*"))


@pytest.mark.parametrize("enabled", [True, False])
def test_captured_answers_are_kept_whether_or_not_others_are_written(build, capture, enabled):
    written = prepare(build()).documents
    kept = captured(
        build, capture(written, output_token_ids=[7, 8, 9, 10]), data__regenerate__enabled=enabled
    )
    assert {one.token_ids[one.answer_start :] for one in prepare(kept).documents} == {(7, 8, 9, 10)}


def test_asked_to_the_target_writes_captured_answers_anew(build, capture):
    written = prepare(build()).documents
    folder = capture(written, output_token_ids=[7, 8, 9, 10])
    anew = captured(build, folder, data__regenerate__keep_captured=False)
    assert same_tokens(prepare(anew).documents, written)


def test_a_drafter_is_trained_and_measured_on_a_capture(build, capture, tmp_path):
    folder = capture(prepare(build()).documents)
    config = captured(
        build,
        folder,
        evaluation__conversations=str(folder),
        evaluation__max_documents=4,
        output=str(tmp_path / "next"),
    )
    facts = train(config)
    assert facts is not None
    assert (facts["documents"], facts["target_agreement"]) == (10, 1.0)
    assert facts["evaluation"]["tau"] >= 1.0
    assert (tmp_path / "next" / "model.safetensors").is_file()


def test_a_name_that_is_not_the_targets_is_told_before_anything_is_trained(build, capture, caplog):
    folder = capture(prepare(build()).documents)
    prepare(captured(build, folder, data__input__model=None))
    assert "holds answers of a model served as tiny" in caplog.text


def test_a_capture_of_another_model_is_one_clear_line(build, capture):
    folder = capture(prepare(build()).documents, output_token_ids=[7, 4096])
    with pytest.raises(ConfigError, match=r"document 0: holds token 4096, the vocabulary of"):
        prepare(captured(build, folder))


def test_to_write_anew_without_writing_is_refused():
    with pytest.raises(ValueError, match="keep_captured=false needs enabled=true"):
        RegenerateConfig(enabled=False, keep_captured=False)
