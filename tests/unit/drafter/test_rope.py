import pytest

from dpace_serve.drafter.checkpoint import DrafterConfig
from dpace_serve.drafter.rope import RopeScaling
from dpace_serve.errors import CheckpointError

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LINEAR = {"rope_type": "linear", "factor": 2.0}


def refusal(values):
    with pytest.raises(CheckpointError) as caught:
        DrafterConfig.from_dict(values)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("rope", [LLAMA3, YARN, LINEAR])
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_a_served_variant_is_read_from_either_key(config_values, key, rope):
    config = DrafterConfig.from_dict({**config_values, key: rope})
    assert config.rope_scaling == RopeScaling(**rope)
    assert config.rope_theta == 10000.0


@pytest.mark.parametrize("rope", [LLAMA3, YARN, LINEAR])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_variant_that_is_written_reads_back_equal(config_values, rope, share):
    values = {**config_values, "rope_parameters": rope, "partial_rotary_factor": share}
    config = DrafterConfig.from_dict(values)
    assert config.partial_rotary_factor == share
    assert DrafterConfig.from_dict(config.to_dict()) == config


def test_the_older_key_wins_as_in_transformers(config_values):
    transformers = pytest.importorskip("transformers")
    values = {**config_values, "rope_parameters": YARN, "rope_scaling": dict(LINEAR)}
    read = DrafterConfig.from_dict(values)
    del values["model_type"]
    theirs = transformers.Qwen3Config(**values).rope_parameters
    assert read.rope_scaling.rope_type == theirs["rope_type"] == "linear"
    assert read.rope_theta == theirs["rope_theta"]


@pytest.mark.parametrize("rope", [LLAMA3, YARN, LINEAR])
def test_transformers_reads_a_written_variant_as_meant(config_values, rope):
    transformers = pytest.importorskip("transformers")
    values = {**config_values, "rope_parameters": rope, "partial_rotary_factor": 0.5}
    written = DrafterConfig.from_dict(values).to_dict()
    del written["model_type"]
    assert transformers.Qwen3Config(**written).rope_parameters == {
        **rope,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
    }


def test_sixteen_of_32_dimensions_rotate_at_a_share_of_one_half(config_values):
    config = DrafterConfig.from_dict({**config_values, "partial_rotary_factor": 0.5})
    assert config.rotary_dim == 16


@pytest.mark.parametrize(
    ("rope", "rule"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "got 'dynamic': its angles depend on the length"),
        ({"type": "longrope"}, "got 'longrope': its angles depend on the length"),
        ({"rope_type": "su"}, "rope_type must be one of default, linear, llama3, yarn, got 'su'"),
        ({"rope_type": "linear"}, "rope_parameters.factor must be given for rope_type linear"),
        ({**LLAMA3, "factor": None}, "rope_parameters.factor must be given for rope_type llama3"),
        ({**LINEAR, "factor": 0}, "factor of the rotation must be a positive number, got 0"),
        ({**LINEAR, "factor": "2"}, "factor must be a number, got '2'"),
        ({**LINEAR, "beta_fast": 32}, "rope_parameters.beta_fast is not a known key"),
        ({**YARN, "truncate": 1}, "truncate must be true or false"),
        (
            {**YARN, "factor": 3.0},
            "must be at most factor x original = 384",
        ),
        ({"mrope_section": [1, 2, 3]}, "rope_parameters.mrope_section is not a known key"),
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor must make an even number"),
        ({"partial_rotary_factor": 0.1}, "partial_rotary_factor must make an even number"),
    ],
)
def test_a_variant_that_no_engine_serves_is_refused(config_values, rope, rule):
    assert rule in refusal({**config_values, "rope_parameters": rope})


def test_two_shares_that_disagree_are_refused(config_values):
    values = {**config_values, "partial_rotary_factor": 0.5}
    text = refusal({**values, "rope_parameters": {"partial_rotary_factor": 0.25}})
    assert "partial_rotary_factor must be the same in both places" in text
