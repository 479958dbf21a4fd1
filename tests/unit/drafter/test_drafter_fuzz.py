"""Files of a drafter and its target that nobody meant: read whole, or refused in one line."""

import json
import os
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from dpace_serve.drafter import checkpoint
from dpace_serve.drafter.checkpoint import DrafterConfig
from dpace_serve.drafter.doctor import examine
from dpace_serve.drafter.exchange import read_layout
from dpace_serve.drafter.safetensors_header import read_header
from dpace_serve.drafter.tokenizer_files import ordinary_token
from dpace_serve.drafter.weight_files import read_entries, read_json
from dpace_serve.errors import MAX_MESSAGE_CHARACTERS, CheckpointError
from tests.fuzzing import FUZZ, damaged, json_files, outcome

HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]},
}
SIZES = st.sampled_from([0, 1, 7, 8, 9, 100_000_001, 2**31, 2**63 - 1, 2**63, 2**64 - 1])


def changed(folder, name, data):
    """The document of a file of a folder; a damaged one is put in its place."""
    path = folder / name
    document = json.loads(path.read_text())
    path.write_bytes(data.draw(json_files(document)))
    return path, document


@st.composite
def header_files(draw):
    text = draw(json_files(HEADER))
    length = draw(st.just(len(text)) | st.just(len(text)) | SIZES)
    raw = length.to_bytes(8, "little") + text + b"\0" * draw(st.sampled_from([26, 0, 25, 27]))
    return draw(damaged(raw))


@FUZZ
@given(raw=header_files())
def test_any_header_is_read_or_refused(tmp_path, raw):
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw)
    entries = outcome(lambda: read_header(path))
    for entry in (entries or {}).values():
        assert all(0 <= size < 2**63 for size in entry.shape)


@FUZZ
@given(data=st.data())
def test_any_configuration_is_a_drafters_or_refused(drafter, data):
    path, document = changed(drafter.path, "config.json", data)
    found = outcome(lambda: checkpoint.read_config(drafter.path))
    outcome(lambda: checkpoint.validate(drafter.path))
    path.write_text(json.dumps(document))
    if found is not None:
        assert DrafterConfig.from_dict(found.to_dict()) == found


@FUZZ
@given(data=st.data())
def test_any_configuration_of_speculators_is_a_drafters_or_refused(speculators, target, data):
    path, document = changed(speculators.path, "config.json", data)
    outcome(lambda: checkpoint.read_config(speculators.path))
    found = outcome(lambda: read_layout(speculators.path, target=target.path))
    path.write_text(json.dumps(document))
    if found is not None:
        assert DrafterConfig.from_dict(found.to_dict()) == found


@FUZZ
@given(data=st.data())
def test_any_index_leads_to_files_of_its_folder_or_is_refused(tmp_path, data):
    names = {"a": "one.safetensors", "b": "two.safetensors"}
    for tensor, name in names.items():
        (tmp_path / name).write_bytes(save({tensor: torch.zeros(1)}))
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(data.draw(json_files({"metadata": {"total_size": 8}, "weight_map": names})))
    found = outcome(lambda: read_entries(tmp_path))
    assert found is None or found.keys() == {"a", "b"}


@FUZZ
@given(data=st.data())
def test_any_file_of_a_target_gives_findings_of_one_line(drafter, target, data):
    target.set_config(tie_word_embeddings=False)
    (target.path / "chat_template.jinja").unlink(missing_ok=True)
    written = {
        "tokenizer_config.json": {
            "mask_token": {"content": "<|mask|>"},
            "chat_template": [{"template": "{{ x }}"}],
        },
        "model.safetensors.index.json": {"weight_map": {"lm_head.weight": "a.safetensors"}},
        "generation_config.json": {"eos_token_id": [1, 2]},
    }
    for name, values in written.items():
        (target.path / name).write_text(json.dumps(values))
    name = data.draw(st.sampled_from([*written, "config.json", "tokenizer.json"]))
    path, document = changed(target.path, name, data)
    findings = outcome(lambda: examine(target.path, drafter.path))
    path.write_text(json.dumps(document))
    for finding in findings:
        assert finding.line().isprintable()
        assert len(finding.line()) < 2 * MAX_MESSAGE_CHARACTERS


def header_of(shape, offsets):
    text = json.dumps({"a": {"dtype": "U8", "shape": shape, "data_offsets": offsets}}).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("raw", "fragment"),
    [
        # Their product has seven million digits: it took minutes.
        (header_of([10**4000] * 900, [0, 1]), "has the shape"),
        (header_of([2**63], [0, 2**63]), "has the shape"),
        (header_of([1] * 9, [0, 1]), "has the shape"),
        (header_of(list(range(50_000)), [0, 1]), "has the shape"),
        ((4_000_001).to_bytes(8, "little") + b" " * 4_000_001, "more than 4,000,000 bytes"),
    ],
)
def test_a_header_that_would_cost_more_than_a_line_is_refused(tmp_path, raw, fragment):
    (tmp_path / "model.safetensors").write_bytes(raw)
    begin = time.thread_time()
    with pytest.raises(CheckpointError, match=fragment) as caught:
        read_header(tmp_path / "model.safetensors")
    assert time.thread_time() - begin < 1
    assert len(str(caught.value)) <= MAX_MESSAGE_CHARACTERS


def test_weights_that_became_a_pipe_are_not_waited_for(drafter):
    drafter.weights.unlink()
    os.mkfifo(drafter.weights)
    with pytest.raises(CheckpointError, match="it is no file"):
        checkpoint.validate(drafter.path)


def test_a_configuration_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no room on the disk
    with pytest.raises(CheckpointError, match=r"cannot be read \(larger than 4,000,000 bytes\)"):
        read_json(path)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "sub/a.safetensors", "..", ""])
def test_an_index_names_files_of_its_own_folder_only(drafter, name):
    index = {"weight_map": {"norm.weight": name}}
    (drafter.path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="must name safetensors files of this folder"):
        read_entries(drafter.path)


def test_code_that_an_engine_would_run_for_the_configuration_is_refused(drafter, speculators):
    published = {"AutoModel": "dflash.DFlashDraftModel"}  # never run: vLLM knows the architecture
    drafter.set_config(auto_map=published)
    assert checkpoint.validate(drafter.path).block_size == 8
    for folder in (drafter, speculators):
        folder.set_config(auto_map={**published, "AutoConfig": "evil.Config"})
        with pytest.raises(CheckpointError, match="auto_map must not name AutoConfig"):
            checkpoint.read_config(folder.path)


def test_a_name_of_a_tensor_cannot_write_lines_of_the_log(drafter):
    name = "a\n\x1b[31mERROR all is lost"
    drafter.save({name: torch.zeros(1)})
    with pytest.raises(CheckpointError) as caught:
        checkpoint.validate(drafter.path)
    assert "a \\x1b[31mERROR all is lost" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("entry", [5, [], None, {"a": 1}])
def test_a_vocabulary_without_texts_is_no_crash(target, entry):
    vocabulary = {"model": {"vocab": [["a", 0.0], entry]}, "added_tokens": []}
    (target.path / "tokenizer.json").write_text(json.dumps(vocabulary))
    assert ordinary_token(target.path, 0) == "a"
    assert ordinary_token(target.path, 1) is None


@pytest.mark.parametrize("weight_map", [[{}], 5, [["a"]], None])
def test_an_index_of_a_target_without_names_is_no_crash(drafter, target, weight_map):
    target.set_config(tie_word_embeddings=False)
    index = target.path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert all(finding.ok for finding in examine(target.path, drafter.path))
