import copy
import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BloomConfig, Qwen3Config, Qwen3ForCausalLM

from dpace_serve.errors import CheckpointError
from dpace_training.data.target_model import load_target, load_target_ends, target_revision


def ends_of(target):
    model = target.model
    return (
        model.get_input_embeddings().weight,
        model.base_model.norm.weight,
        model.get_output_embeddings().weight,
    )


@pytest.fixture
def untied_folder(target_folder, tmp_path, tokenizer):
    """A target whose head is not its embedding, in two files."""
    config = Qwen3Config.from_pretrained(target_folder)
    config.tie_word_embeddings = False
    torch.manual_seed(1)
    Qwen3ForCausalLM(config).save_pretrained(tmp_path, max_shard_size="60KB")
    tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    return tmp_path


def test_the_ends_of_a_target_are_those_of_the_whole(target, target_folder):
    ends = load_target_ends(target_folder, dtype=torch.float32)
    assert all(map(torch.equal, ends_of(ends), ends_of(target)))
    assert (ends.revision, ends.end_ids) == (target.revision, target.end_ids)
    assert ends.model.config.to_dict() == target.model.config.to_dict()


def test_the_decoder_layers_take_no_memory(target, target_folder):
    ends = load_target_ends(target_folder, dtype=torch.float32)
    layers = ends.model.base_model.layers
    assert len(layers) == len(target.model.base_model.layers)
    assert all(parameter.is_meta for parameter in layers.parameters())


def test_a_head_of_its_own_is_found_in_any_file_and_converted(untied_folder):
    whole = load_target(untied_folder, dtype=torch.bfloat16)
    ends = load_target_ends(untied_folder, dtype=torch.bfloat16)
    embedding, _, head = ends_of(ends)
    assert embedding.dtype == torch.bfloat16
    assert not torch.equal(embedding, head)
    assert all(map(torch.equal, ends_of(ends), ends_of(whole)))


def test_a_missing_weight_is_one_clear_line(untied_folder):
    for path in untied_folder.glob("*.safetensors"):
        tensors = load_file(path)
        tensors.pop("model.norm.weight", None)
        save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"no safetensors file there holds model.norm.weight"):
        load_target_ends(untied_folder, dtype=torch.float32)


@pytest.mark.parametrize("load", [load_target, load_target_ends])
@pytest.mark.parametrize("wrong", [{"model_type": "never-heard-of"}, {"hidden_size": "wide"}])
def test_a_wrong_configuration_is_one_clear_line(target_folder, tmp_path, load, wrong):
    shutil.copytree(target_folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((target_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | wrong))
    with pytest.raises(CheckpointError, match=r"cannot be loaded as a target") as caught:
        load(tmp_path, dtype=torch.float32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100])
def test_damaged_weights_are_one_clear_line(target_folder, tmp_path, content):
    shutil.copytree(target_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(content)
    for load in (load_target, load_target_ends):
        with pytest.raises(CheckpointError, match=r"cannot be loaded as a target"):
            load(tmp_path, dtype=torch.float32)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", None])
def test_weights_that_are_not_safetensors_are_refused_unopened(
    target, target_folder, tmp_path, name
):
    for path in target_folder.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, tmp_path)
    if name is not None:
        # What a loader of pickles would take.
        torch.save(target.model.state_dict(), tmp_path / name)
    for use in (
        lambda: load_target(tmp_path, dtype=torch.float32),
        lambda: load_target_ends(tmp_path, dtype=torch.float32),
        lambda: target_revision(tmp_path),
    ):
        with pytest.raises(CheckpointError, match=r"weights must be safetensors, there are none"):
            use()


def test_a_target_that_does_not_say_its_positions_is_one_clear_line(target):
    model = copy.copy(target.model)
    model.config = BloomConfig()  # ALiBi: no positions to run out of
    with pytest.raises(CheckpointError, match=r"must give max_position_embeddings, got None"):
        _ = dataclasses.replace(target, model=model).max_positions
