"""A drafter's rotation against its target's, parameter by parameter."""

import json

import pytest

from dpace_serve.drafter.doctor import examine
from dpace_serve.drafter.rope import Rope, RopeScaling, read_rope
from dpace_serve.drafter.rotation import read_target_rope, rope_differences
from dpace_serve.errors import CheckpointError

LINEAR = {"rope_type": "linear", "factor": 8.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256}
# 0.1 ln 8 + 1
YARN_ATTENTION = 1.2079441541679836

DAMAGES = [
    (LINEAR, {"factor": 2.0}, "factor is 2, the target's is 8"),
    (LLAMA3, {"factor": 2.0}, "factor is 2, the target's is 8"),
    (LLAMA3, {"low_freq_factor": 2.0}, "low_freq_factor is 2, the target's is 1"),
    (LLAMA3, {"high_freq_factor": 3.0}, "high_freq_factor is 3, the target's is 4"),
    (
        LLAMA3,
        {"original_max_position_embeddings": 512},
        "original_max_position_embeddings is 512, the target's is 256",
    ),
    (YARN, {"factor": 2.0}, "factor is 2, the target's is 8"),
    (
        YARN,
        {"original_max_position_embeddings": 512},
        "original_max_position_embeddings is 512, the target's is 256",
    ),
    (YARN, {"beta_fast": 16.0}, "beta_fast is 16, the target's is 32"),
    (YARN, {"beta_slow": 2.0}, "beta_slow is 2, the target's is 1"),
    (YARN, {"truncate": False}, "truncate is False, the target's is True"),
    (YARN, {"attention_factor": 1.0}, "attention_factor is 1, the target's is 1.20794"),
    (
        YARN,
        {"mscale": 1.0, "mscale_all_dim": 2.0},
        # 1.2079 over 1.4159
        "attention_factor is 0.853135, the target's is 1.20794",
    ),
    (YARN, {"rope_theta": 500.0}, "rope_theta is 500, the target's is 10000"),
    (YARN, {"partial_rotary_factor": 0.5}, "it rotates 50 % of a head, the target 100 %"),
    (YARN, LINEAR, "its scaling is linear, the target's is yarn"),
]


def rotation(target, drafter):
    found = {finding.check: finding for finding in examine(target.path, drafter.path)}
    return found["rotation"]


def pair(target, drafter, theirs, changes):
    """Give both the target's rotation, the drafter's changed."""
    theirs = {"rope_theta": 10000.0, **theirs}
    ours = changes if "rope_type" in changes else theirs | changes
    base = ours.get("rope_theta", 10000.0)
    target.set_config(rope_parameters=theirs, max_position_embeddings=512)
    drafter.set_config(
        rope_theta=base,
        rope_parameters=ours | {"rope_theta": base},
        max_position_embeddings=256,
    )


@pytest.mark.parametrize(("theirs", "changes", "said"), DAMAGES)
def test_every_parameter_that_differs_is_a_note_with_the_cure(
    target, drafter, theirs, changes, said
):
    pair(target, drafter, theirs, changes)
    found = rotation(target, drafter)
    assert found.is_note
    assert said in found.message
    # What the cure says to write makes the two equal.
    written = found.cure.partition("rope_parameters ")[2].partition(" into its config.json")[0]
    rope = json.loads(written)
    drafter.set_config(rope_theta=rope["rope_theta"], rope_parameters=rope)
    assert not rotation(target, drafter).is_note


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (YARN, {**YARN, "beta_fast": 32, "beta_slow": 1, "truncate": True}),
        (YARN, {**YARN, "attention_factor": YARN_ATTENTION}),
        (YARN, {**YARN, "mscale": 1.0}),  # without mscale_all_dim it is not looked at
        ({**YARN, "attention_factor": 1.0}, {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}),
        ({**LINEAR, "factor": 1}, {"rope_type": "default"}),
        ({**YARN, "factor": 1.0}, {"rope_type": "default"}),
        ({"rope_type": "default", "mrope_section": [2, 3, 3]}, {"rope_type": "default"}),
        ({"type": "mrope", "mrope_section": [2, 3, 3]}, {"rope_type": "default"}),
    ],
)
def test_what_a_rotation_leaves_out_is_its_default(theirs, ours):
    base = {"rope_theta": 10000.0}
    target = read_target_rope({"rope_parameters": base | theirs})
    assert rope_differences(read_rope({"rope_parameters": base | ours}), target) == []


@pytest.mark.parametrize("rope", [LINEAR, LLAMA3, YARN])
def test_a_targets_rotation_is_read_from_the_older_keys_too(rope):
    older = {("type" if key == "rope_type" else key): value for key, value in rope.items()}
    values = {"rope_theta": 500.0, "partial_rotary_factor": 0.5, "rope_scaling": older}
    assert read_target_rope(values) == Rope(500.0, 0.5, RopeScaling(**rope))


@pytest.mark.parametrize(
    ("beside", "length"),
    [
        ({"max_position_embeddings": 64}, 64),
        ({"max_position_embeddings": 64, "original_max_position_embeddings": 32}, 32),
    ],
)
def test_the_original_length_is_filled_in_as_by_transformers(beside, length):
    transformers = pytest.importorskip("transformers")
    rope = {"rope_type": "yarn", "factor": 8.0, "rope_theta": 10000.0}
    values = {"rope_parameters": rope, **beside}
    scaling = read_target_rope(values).scaling
    assert scaling is not None
    assert scaling.original_max_position_embeddings == length
    theirs = transformers.Qwen3Config(**values)
    theirs.standardize_rope_params()  # as the model does when it makes its angles
    assert theirs.rope_parameters["original_max_position_embeddings"] == length


@pytest.mark.parametrize(
    "own", [{}, {"attention_factor": 1.5}, {"mscale": 1.0, "mscale_all_dim": 2.0}, {"mscale": 2.0}]
)
def test_the_attention_factor_is_that_of_transformers(own):
    pytest.importorskip("transformers")
    from transformers import Qwen3Config
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_theta": 10000.0, **YARN, **own}
    config = Qwen3Config(rope_parameters=dict(rope), max_position_embeddings=256, head_dim=16)
    _, factor = ROPE_INIT_FUNCTIONS["yarn"](config, None)
    written_out = read_rope({"rope_parameters": {**rope, "attention_factor": factor}})
    assert rope_differences(read_rope({"rope_parameters": rope}), written_out) == []


@pytest.mark.parametrize(
    ("rope", "reason"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "got 'dynamic': its angles depend"),
        ({"full_attention": {}, "sliding_attention": {}}, "layers of the target rotate differ"),
        ({"rope_theta": None}, "rope_theta must be given"),
    ],
)
def test_a_rotation_that_cannot_be_compared_is_a_note_with_the_reason(
    target, drafter, rope, reason
):
    target.set_config(rope_parameters={"rope_theta": 10000.0} | rope, rope_theta=None)
    found = rotation(target, drafter)
    assert found.is_note
    assert "rope_theta 10000, not compared with the target's: " in found.message
    assert reason in found.message
    assert "--replay measures it" in found.cure


def test_a_rotation_that_a_drafter_cannot_have_is_refused():
    with pytest.raises(CheckpointError, match="rope_type must be one of"):
        read_target_rope({"rope_theta": 1e4, "rope_scaling": {"rope_type": "longrope"}})
