"""Drafters with position specialists on disk: what is written, read, refused and said."""

import json

import pytest
import torch
from safetensors.torch import load_file

from dpace_serve.drafter import checkpoint
from dpace_serve.drafter.checkpoint import DrafterConfig, tensor_shapes
from dpace_serve.drafter.doctor import require_servable
from dpace_serve.drafter.exchange import export, read_drafter
from dpace_serve.drafter.specialists import Specialists
from dpace_serve.errors import CheckpointError
from dpace_serve.live.hosted import shape_differences, shape_of

ARCHITECTURE = ["DPaceSpecialistDraftModel"]
LOW_RANK = {"kind": "low_rank", "group_size": 2, "rank": 5}
LAST_LAYER = {"kind": "last_layer", "group_size": 3}


@pytest.fixture
def specialise(drafter, tensors):
    """Make the drafter of the other tests one with specialists, without the code under test."""

    def make(section):
        changed = dict(tensors)
        if section["kind"] == "low_rank":  # 7 draft positions: four groups of two
            changed["specialists.adapter_in.weight"] = torch.randn(4, 5, 64).bfloat16()
            changed["specialists.adapter_out.weight"] = torch.randn(4, 64, 5).bfloat16()
        else:  # three groups of three
            for name in list(changed):
                own = name.removeprefix("layers.1.")
                if own != name and own.split(".")[1] not in ("k_proj", "v_proj", "k_norm"):
                    changed[f"specialists.{own}"] = torch.stack([changed.pop(name)] * 3)
        drafter.save(changed)
        drafter.set_config(architectures=ARCHITECTURE, specialists=section)
        return changed

    return make


@pytest.mark.parametrize(("group_size", "num_groups"), [(1, 7), (2, 4), (3, 3), (6, 2), (7, 1)])
def test_seven_draft_positions_are_so_many_groups(group_size, num_groups):
    assert Specialists("last_layer", group_size).num_groups(7) == num_groups


def test_adapters_are_two_tensors_beside_the_plain_ones(config_values, shapes):
    config = DrafterConfig.from_dict(
        {**config_values, "architectures": ARCHITECTURE, "specialists": LOW_RANK}
    )
    assert tensor_shapes(config) == {
        **shapes,
        "specialists.adapter_in.weight": (4, 5, 64),
        "specialists.adapter_out.weight": (4, 64, 5),
    }


def test_a_replicated_last_layer_keeps_its_keys_and_values_and_stacks_the_rest(
    config_values, shapes
):
    config = DrafterConfig.from_dict(
        {**config_values, "architectures": ARCHITECTURE, "specialists": LAST_LAYER}
    )
    found = tensor_shapes(config)
    assert {name: shape for name, shape in found.items() if name.startswith("specialists.")} == {
        "specialists.input_layernorm.weight": (3, 64),
        "specialists.post_attention_layernorm.weight": (3, 64),
        "specialists.self_attn.q_proj.weight": (3, 128, 64),
        "specialists.self_attn.o_proj.weight": (3, 64, 128),
        "specialists.self_attn.q_norm.weight": (3, 32),
        "specialists.mlp.gate_proj.weight": (3, 96, 64),
        "specialists.mlp.up_proj.weight": (3, 96, 64),
        "specialists.mlp.down_proj.weight": (3, 64, 96),
    }
    last = {name: shape for name, shape in found.items() if name.startswith("layers.1.")}
    assert last == {
        "layers.1.self_attn.k_proj.weight": (64, 64),
        "layers.1.self_attn.v_proj.weight": (64, 64),
        "layers.1.self_attn.k_norm.weight": (32,),
    }
    plain = {name: shape for name, shape in shapes.items() if not name.startswith("layers.1.")}
    assert {name: shape for name, shape in found.items() if name in plain} == plain


def test_biases_of_queries_and_outputs_are_stacked_too(config_values):
    values = {**config_values, "architectures": ARCHITECTURE, "specialists": LAST_LAYER}
    found = tensor_shapes(DrafterConfig.from_dict({**values, "attention_bias": True}))
    assert found["specialists.self_attn.q_proj.bias"] == (3, 128)
    assert found["specialists.self_attn.o_proj.bias"] == (3, 64)
    assert found["layers.1.self_attn.k_proj.bias"] == (64,)
    assert "layers.1.self_attn.q_proj.bias" not in found


@pytest.mark.parametrize("section", [LOW_RANK, LAST_LAYER])
def test_reading_and_writing_again_gives_the_same_drafter(drafter, specialise, tmp_path, section):
    given = specialise(section)
    config, tensors = read_drafter(drafter.path, target=None)
    checkpoint.write(tmp_path / "first", config, tensors)
    checkpoint.write(tmp_path / "second", *read_drafter(tmp_path / "first", target=None))
    written = json.loads((tmp_path / "first" / "config.json").read_text())
    assert written["architectures"] == ARCHITECTURE
    assert written["specialists"] == section
    found = load_file(tmp_path / "first" / "model.safetensors")
    assert found.keys() == given.keys()
    assert all(torch.equal(found[name], given[name]) for name in given)
    for name in ("config.json", "model.safetensors"):
        first, second = ((tmp_path / copy / name).read_bytes() for copy in ("first", "second"))
        assert first == second


def refusal(folder):
    with pytest.raises(CheckpointError) as caught:
        checkpoint.validate(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 0}, "specialists.rank must lie in 1..64 (hidden_size) with kind low_rank, got 0"),
        ({"rank": ...}, "specialists.rank must lie in 1..64 (hidden_size) with kind low_rank"),
        ({"rank": 65}, "got 65"),
        ({"rank": "5"}, "rank must be a whole number, got '5'"),
        ({"group_size": 0}, "specialists.group_size must lie in 1..7 (block_size - 1), got 0"),
        ({"group_size": 8}, "got 8"),
        ({"group_size": ...}, "group_size must be given"),
        ({"kind": "experts"}, "specialists.kind must be low_rank or last_layer, got 'experts'"),
        ({"kind": ["low_rank"]}, "specialists.kind must be low_rank or last_layer"),
        ({"kind": "last_layer"}, "specialists.rank must be left out with kind last_layer"),
        ({"layers": 2}, "specialists.layers is not a known key"),
    ],
)
def test_a_wrong_section_is_refused_with_its_key(drafter, changes, words):
    section = {key: v for key, v in {**LOW_RANK, **changes}.items() if v is not ...}
    drafter.set_config(architectures=ARCHITECTURE, specialists=section)
    assert words in refusal(drafter.path)


def test_a_section_that_is_no_group_of_keys_is_refused(drafter):
    drafter.set_config(architectures=ARCHITECTURE, specialists=[1])
    assert "specialists must be a group of keys" in refusal(drafter.path)


@pytest.mark.parametrize("changes", [{"architectures": ARCHITECTURE}, {"specialists": LOW_RANK}])
def test_architecture_and_section_stand_together(drafter, changes):
    drafter.set_config(**changes)
    assert "must stand together" in refusal(drafter.path)


def test_a_missing_stack_is_named(drafter, specialise):
    changed = specialise(LAST_LAYER)
    del changed["specialists.self_attn.q_norm.weight"]
    drafter.save(changed)
    assert "missing specialists.self_attn.q_norm.weight" in refusal(drafter.path)


def test_a_last_layer_that_is_there_twice_is_refused(drafter, specialise, tensors):
    name = "layers.1.mlp.up_proj.weight"
    drafter.save({**specialise(LAST_LAYER), name: tensors[name]})
    assert f"found unknown {name}" in refusal(drafter.path)


def test_a_stack_of_another_number_of_groups_is_refused(drafter, specialise):
    specialise(LAST_LAYER)
    drafter.set_config(architectures=ARCHITECTURE, specialists={**LAST_LAYER, "group_size": 2})
    assert "[3, 64] instead of [4, 64]" in refusal(drafter.path)


@pytest.mark.parametrize("section", [LOW_RANK, LAST_LAYER])
@pytest.mark.parametrize("has_target", [True, False])
def test_speculators_has_no_place_for_them(
    drafter, specialise, tied_target, tmp_path, section, has_target
):
    specialise(section)
    target = tied_target if has_target else None
    with pytest.raises(CheckpointError, match=r"no place for position specialists, this drafter"):
        export(drafter.path, tmp_path / "out", layout="speculators", target=target)
    assert not (tmp_path / "out").exists()


def test_a_speculators_folder_cannot_say_that_it_has_them(speculators):
    speculators.set_config(layers={"num_target_layers": 8, "specialists": LOW_RANK})
    assert "must stand together" in refusal(speculators.path)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (LOW_RANK, "4 groups of draft positions have a low_rank specialist each"),
        (LAST_LAYER, "3 groups of draft positions have a last_layer specialist each"),
    ],
)
def test_the_doctor_reads_them_and_says_what_serves_them(
    drafter, target, specialise, section, words
):
    specialise(section)
    findings = require_servable(target.path, drafter.path)
    (found,) = [finding for finding in findings if finding.check == "specialists"]
    assert words in found.message
    assert "which vLLM and SGLang serve on one device" in found.message


def test_a_slot_without_them_has_another_shape(config_values):
    config = DrafterConfig.from_dict(
        {**config_values, "architectures": ARCHITECTURE, "specialists": LOW_RANK}
    )
    plain = DrafterConfig.from_dict(config_values)
    words = shape_differences(config, shape_of(plain))
    assert words == "specialists low_rank of rank 5 in groups of 2 instead of none"
