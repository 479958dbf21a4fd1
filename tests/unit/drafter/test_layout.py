import pytest

from dpace_serve.drafter.checkpoint import (
    DrafterConfig,
    default_target_layer_ids,
    tensor_shapes,
)
from dpace_serve.errors import ConfigError


def test_five_taps_of_36_layers_are_those_of_the_published_drafters():
    assert default_target_layer_ids(36, 5) == (1, 9, 17, 25, 33)


def test_halves_are_rounded_to_the_even_layer():
    # 1 + i * 10 / 4 = 1, 3.5, 6, 8.5, 11
    assert default_target_layer_ids(14, 5) == (1, 4, 6, 8, 11)


def test_a_single_tap_sits_in_the_middle():
    assert default_target_layer_ids(24, 1) == (12,)


def test_taps_are_different_layers_wherever_they_are_allowed():
    for num_taps in range(2, 12):
        for num_layers in range(num_taps + 3, 100):
            ids = default_target_layer_ids(num_layers, num_taps)
            assert len(set(ids)) == num_taps
            assert (ids[0], ids[-1]) == (1, num_layers - 3)


@pytest.mark.parametrize(
    ("num_layers", "num_taps"), [(6, 5), (7, 5), (3, 2), (4, 2), (36, 0), (0, 1)]
)
def test_too_many_taps_for_the_target_are_refused(num_layers, num_taps):
    with pytest.raises(ConfigError, match=f"got {num_taps}"):
        default_target_layer_ids(num_layers, num_taps)


def test_names_and_shapes_are_those_of_the_z_lab_layout(config_values, shapes):
    assert tensor_shapes(DrafterConfig.from_dict(config_values)) == shapes


def test_attention_bias_adds_four_vectors_per_layer(config_values, shapes):
    config = DrafterConfig.from_dict({**config_values, "attention_bias": True})
    added = {k: v for k, v in tensor_shapes(config).items() if k not in shapes}
    assert {k: v for k, v in added.items() if k.startswith("layers.0.")} == {
        "layers.0.self_attn.q_proj.bias": (128,),
        "layers.0.self_attn.k_proj.bias": (64,),
        "layers.0.self_attn.v_proj.bias": (64,),
        "layers.0.self_attn.o_proj.bias": (64,),
    }
    assert len(added) == 8
