import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from dpace_serve.errors import CheckpointError
from dpace_training.data.target_model import load_target, load_target_ends


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


def test_an_unknown_architecture_is_one_clear_line(target_folder, tmp_path):
    config = json.loads((target_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "never-heard-of"}))
    with pytest.raises(CheckpointError, match=r"cannot be loaded as a target"):
        load_target_ends(tmp_path, dtype=torch.float32)
