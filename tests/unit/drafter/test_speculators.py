"""Drafters as speculators writes them, read as they are meant and as vLLM serves them."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpace_serve.drafter import checkpoint
from dpace_serve.drafter.exchange import export, read_drafter, read_layout
from dpace_serve.drafter.sliding import SlidingAttention
from dpace_serve.errors import CheckpointError, ConfigError


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def drafter_tensors(drafter):
    return load_file(drafter.weights)


def refusal(call, *arguments, **named):
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        call(*arguments, **named)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_speculators_drafter_is_the_z_lab_drafter_with_ids_one_less(
    speculators, drafter, tied_target
):
    config, tensors = read_drafter(speculators.path, target=tied_target)
    assert config == checkpoint.read_config(drafter.path)
    assert same(tensors, checkpoint.read_tensors(drafter.path))


@pytest.mark.parametrize(("non_causal", "is_causal"), [(True, False), (False, True)])
def test_windows_of_speculators_are_read_with_their_direction(
    speculators, tied_target, non_causal, is_causal
):
    layers = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 16}
    speculators.set_config(layers, sliding_window_non_causal=non_causal)
    config = read_layout(speculators.path, target=tied_target)
    assert config.sliding == SlidingAttention(16, (1,), is_causal)


@pytest.mark.parametrize("name", ["t2d", "d2t"])
def test_a_reduced_vocabulary_is_refused(speculators, tied_target, name):
    speculators.save(**{name: torch.zeros(320, dtype=torch.int64)})
    text = refusal(read_layout, speculators.path, target=tied_target)
    assert f"a reduced vocabulary is not supported, found {name}" in text


def test_a_missing_and_an_unexpected_tensor_are_named(speculators, tied_target):
    speculators.save(mask_hidden=torch.zeros(1).bfloat16())
    assert "unknown mask_hidden" in refusal(read_layout, speculators.path, target=tied_target)
    del speculators.tensors["fc.weight"]
    speculators.save()
    assert "missing fc.weight" in refusal(read_layout, speculators.path, target=tied_target)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"speculators_model_type": "dspark"}, "must be \"dflash\", got 'dspark'"),
        ({"aux_hidden_state_layer_ids": [0, 2]}, "0 is the embedding"),
        ({"aux_hidden_state_layer_ids": [2, 9]}, "target_layer_ids must lie in 0..7"),
        ({"draft_vocab_size": 100}, "draft_vocab_size must equal vocab_size"),
        ({"projector_type": "domino"}, "projector_type"),
        ({"sample_from_anchor": True}, "sample_from_anchor"),
        ({"conv_kernel_size": 2}, "conv_kernel_size is not a known key"),
        ({"mask_token_id": None}, "mask_token_id must be given"),
        ({"block_size": ...}, "block_size must be given"),
    ],
)
def test_what_speculators_can_ask_for_and_we_cannot_is_refused(
    speculators, tied_target, changes, rule
):
    speculators.set_config(**changes)
    assert rule in refusal(read_layout, speculators.path, target=tied_target)


def test_windows_whose_direction_is_not_said_are_refused(speculators, tied_target):
    layers = {"layer_types": ["sliding_attention"] * 2, "sliding_window": 16}
    speculators.set_config(layers, sliding_window_non_causal=...)
    text = refusal(read_layout, speculators.path, target=tied_target)
    assert "sliding_window_non_causal must be given" in text


def test_the_layers_of_the_target_must_come_from_somewhere(speculators):
    text = refusal(read_layout, speculators.path, target=None)
    assert "number of layers is not in this drafter's config.json. Name the target" in text


def test_an_exported_speculators_folder_is_served_as_it_is(drafter, tied_target, tmp_path):
    export(drafter.path, tmp_path / "out", layout="speculators", target=tied_target)
    assert checkpoint.validate(tmp_path / "out") == checkpoint.read_config(drafter.path)
    assert same(checkpoint.read_tensors(tmp_path / "out"), drafter_tensors(drafter))


@pytest.mark.parametrize("types", [None, ["full_attention", "sliding_attention"]])
def test_a_flag_that_vllm_takes_for_all_layers_is_not_served(speculators, types):
    layers = {"num_target_layers": 8, "layer_types": types, "sliding_window": 16}
    speculators.set_config(layers, sliding_window_non_causal=False)
    text = refusal(checkpoint.validate, speculators.path)
    assert "vLLM then makes layers without a window causal too" in text


def test_causal_windows_in_all_layers_are_served_from_speculators(speculators):
    layers = {"num_target_layers": 8, "layer_types": ["sliding_attention"] * 2}
    speculators.set_config({**layers, "sliding_window": 16}, sliding_window_non_causal=False)
    assert checkpoint.validate(speculators.path).sliding == SlidingAttention(16, (0, 1), True)


def test_an_embedding_in_a_served_folder_is_refused_with_the_way_out(
    drafter, tied_target, tmp_path, embedding
):
    export(drafter.path, tmp_path / "out", layout="speculators", target=tied_target)
    weights = tmp_path / "out" / "model.safetensors"
    save_file({**load_file(weights), "embed_tokens.weight": embedding}, weights)
    assert "`dpace export` does" in refusal(checkpoint.validate, tmp_path / "out")
