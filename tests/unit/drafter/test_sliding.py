import pytest

from dpace_serve.drafter.checkpoint import DrafterConfig
from dpace_serve.drafter.sliding import SlidingAttention
from dpace_serve.errors import CheckpointError

FULL, SLIDING = "full_attention", "sliding_attention"


@pytest.fixture
def windowed(config_values):
    """Values of a drafter with a window of 16 in both layers."""
    return {
        **config_values,
        "layer_types": [SLIDING, SLIDING],
        "sliding_window": 16,
        "use_sliding_window": True,
    }


def refusal(values):
    with pytest.raises(CheckpointError) as caught:
        DrafterConfig.from_dict(values)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_windows_are_causal_unless_the_drafter_says_otherwise(windowed):
    assert DrafterConfig.from_dict(windowed).sliding == SlidingAttention(16, (0, 1), is_causal=True)


@pytest.mark.parametrize("place", ["top", "dflash_config"])
def test_a_drafter_can_look_both_ways_inside_its_block(windowed, place):
    if place == "top":
        windowed["is_causal"] = False
    else:
        windowed["dflash_config"]["causal"] = False
    assert DrafterConfig.from_dict(windowed).sliding == SlidingAttention(16, (0, 1))


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("layers", [(0, 1), (1,)])
def test_windows_that_are_written_read_back_equal(windowed, layers, is_causal):
    windowed["layer_types"] = [SLIDING if layer in layers else FULL for layer in range(2)]
    windowed["dflash_config"]["causal"] = None if is_causal else False
    config = DrafterConfig.from_dict(windowed)
    assert config.sliding == SlidingAttention(16, layers, is_causal)
    assert DrafterConfig.from_dict(config.to_dict()) == config


def test_transformers_keeps_the_window_that_is_written(windowed):
    transformers = pytest.importorskip("transformers")
    written = DrafterConfig.from_dict(windowed).to_dict()
    del written["model_type"]
    config = transformers.Qwen3Config(**written)
    assert config.sliding_window == 16
    assert config.layer_types == [SLIDING, SLIDING]


def test_the_size_is_also_read_from_dflash_config(windowed):
    windowed["dflash_config"]["swa_window_size"] = 32
    windowed["sliding_window"] = None
    assert DrafterConfig.from_dict(windowed).sliding.window == 32


@pytest.mark.parametrize("first", [0, 1, None])
def test_without_layer_types_the_windows_are_those_of_transformers(windowed, first):
    transformers = pytest.importorskip("transformers")
    del windowed["layer_types"]
    windowed |= {"max_window_layers": first} if first is not None else {}
    found = DrafterConfig.from_dict(windowed).sliding
    del windowed["model_type"]
    theirs = transformers.Qwen3Config(**windowed).layer_types
    assert (found.layer_types(2) if found else [FULL, FULL]) == theirs


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_types": [FULL, FULL]},
        {"layer_types": None, "use_sliding_window": False},
        {"layer_types": None, "use_sliding_window": None},
    ],
)
def test_a_size_that_no_layer_uses_has_no_effect(windowed, changes):
    assert DrafterConfig.from_dict({**windowed, **changes}).sliding is None


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"use_sliding_window": False}, "use_sliding_window must be true"),
        ({"sliding_window": None}, "sliding_window must be given"),
        ({"sliding_window": 7}, "sliding_window must be at least block_size = 8"),
        ({"layer_types": [SLIDING]}, "one entry per layer (num_hidden_layers is 2), got 1"),
        ({"layer_types": [SLIDING, "chunked_attention"]}, "layer_types must name full_attention"),
        ({"layer_types": SLIDING}, "layer_types must name full_attention"),
    ],
)
def test_windows_that_contradict_themselves_are_refused(windowed, changes, rule):
    assert rule in refusal({**windowed, **changes})


@pytest.mark.parametrize("layers", [(), (2,), (-1,), (1, 0), (0, 0)])
def test_layers_that_are_not_there_are_refused(layers):
    with pytest.raises(CheckpointError, match="must rise within"):
        SlidingAttention(16, layers).check(num_hidden_layers=2, block_size=8)
