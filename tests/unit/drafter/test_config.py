import dataclasses

import pytest

from dpace_serve.drafter.checkpoint import DrafterConfig
from dpace_serve.errors import CheckpointError


def refusal(values):
    with pytest.raises(CheckpointError) as caught:
        DrafterConfig.from_dict(values)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_every_field_of_a_published_config_is_read(config_values):
    assert DrafterConfig.from_dict(config_values) == DrafterConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        max_position_embeddings=512,
        vocab_size=320,
        block_size=8,
        mask_token_id=3,
        target_layer_ids=(1, 5),
        num_target_layers=8,
        target_hidden_size=64,
    )


def test_a_block_of_eight_drafts_seven_tokens(config_values):
    assert DrafterConfig.from_dict(config_values).num_draft_tokens == 7


def test_what_is_written_reads_back_equal(config_values):
    config = dataclasses.replace(
        DrafterConfig.from_dict(config_values),
        objective="dpace",
        target_name="tiny",
        target_revision="0123",
        attention_bias=True,
    )
    assert DrafterConfig.from_dict(config.to_dict()) == config


def test_block_size_is_also_read_from_dflash_config(config_values):
    del config_values["block_size"]
    config_values["dflash_config"]["block_size"] = 16
    assert DrafterConfig.from_dict(config_values).block_size == 16


def test_two_block_sizes_that_disagree_are_refused(config_values):
    config_values["dflash_config"]["block_size"] = 16
    assert "block_size must be the same in both places, got 8 and 16" in refusal(config_values)


def test_rope_theta_is_read_where_transformers_5_writes_it(config_values):
    del config_values["rope_theta"]
    config_values["rope_parameters"] = {"rope_theta": 500000.0, "rope_type": "default"}
    assert DrafterConfig.from_dict(config_values).rope_theta == 500000.0


def test_rope_theta_is_written_for_old_and_new_readers(config_values):
    written = DrafterConfig.from_dict(config_values).to_dict()
    assert written["rope_theta"] == written["rope_parameters"]["rope_theta"] == 10000.0


def test_transformers_reads_the_written_config_as_meant(config_values, tmp_path):
    transformers = pytest.importorskip("transformers")
    written = DrafterConfig.from_dict({**config_values, "rope_theta": 500000.0}).to_dict()
    del written["model_type"]
    config = transformers.Qwen3Config(**written)
    assert config.rope_parameters == {"rope_theta": 500000.0, "rope_type": "default"}
    assert config.layer_types == ["full_attention", "full_attention"]
    assert config.sliding_window is None
    assert config.head_dim == 32
    assert config.dflash_config == {"mask_token_id": 3, "target_layer_ids": [1, 5]}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("is_causal", True),
        ("hidden_act", "gelu"),
        ("is_neox_style", False),
        ("logit_scale", 0.5),
        ("has_own_lm_head", True),
        ("draft_vocab_size", 100),
        ("quantization_config", {"bits": 4}),
        ("final_logit_softcapping", 30.0),
        ("model_type", "llama"),
        ("architectures", ["DFlashSpeculator"]),
        ("dpace", {"objectiv": "dpace"}),
        ("dpace", {"objective": 3}),
    ],
)
def test_a_key_that_would_change_the_computation_is_refused(config_values, key, value):
    assert key in refusal({**config_values, key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [("causal", True), ("use_swa", True), ("sample_from_anchor", True), ("conv_kernel", 4)],
)
def test_a_drafting_mode_that_is_not_supported_is_refused(config_values, key, value):
    config_values["dflash_config"][key] = value
    assert f"dflash_config.{key}" in refusal(config_values)


def test_keys_without_effect_and_neutral_values_are_accepted(config_values):
    neutral = {
        "auto_map": {"AutoModel": "dflash.DFlashDraftModel"},
        "transformers_version": "4.57.0",
        "tie_word_embeddings": True,
        "rope_scaling": None,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "is_causal": False,
        "partial_rotary_factor": 1.0,
        "target_hidden_size": 64,
        "draft_vocab_size": 320,
        "pretraining_tp": 1,
        "mlp_bias": False,
    }
    read = DrafterConfig.from_dict({**config_values, **neutral})
    assert read == DrafterConfig.from_dict(config_values)


def test_whatever_transformers_writes_of_a_plain_qwen3_is_accepted(config_values):
    transformers = pytest.importorskip("transformers")
    plain = {key: value for key, value in config_values.items() if key != "dtype"}
    del plain["model_type"]
    written = transformers.Qwen3Config(**plain).to_dict()
    assert DrafterConfig.from_dict(written) == DrafterConfig.from_dict(config_values)


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("block_size", 1, "block_size must be at least 2"),
        ("block_size", "8", "block_size must be a whole number"),
        ("hidden_size", 64.0, "hidden_size must be a whole number"),
        ("num_hidden_layers", True, "num_hidden_layers must be a whole number"),
        ("head_dim", 0, "head_dim must be at least 1"),
        ("head_dim", 33, "head_dim must be even"),
        ("num_key_value_heads", 3, "multiple of num_key_value_heads = 3"),
        ("rms_norm_eps", 0, "rms_norm_eps must be a positive number"),
        ("rope_theta", float("nan"), "rope_theta must be a positive number"),
        ("rope_theta", "1e6", "rope_theta must be a number"),
        ("target_hidden_size", 128, "hidden_size must equal target_hidden_size = 128"),
        ("attention_bias", "no", "attention_bias must be true or false"),
        ("dflash_config", [3], "dflash_config must be a group"),
    ],
)
def test_a_broken_rule_is_named_with_the_value(config_values, key, value, rule):
    config_values.pop("layer_types")
    assert rule in refusal({**config_values, key: value})


@pytest.mark.parametrize("key", ["hidden_size", "head_dim", "rope_theta", "num_target_layers"])
def test_a_missing_key_is_named(config_values, key):
    del config_values[key]
    assert refusal(config_values).startswith(f"{key} must be given, it is missing.")


@pytest.mark.parametrize("key", ["mask_token_id", "target_layer_ids"])
def test_a_missing_drafting_key_is_named(config_values, key):
    del config_values["dflash_config"][key]
    assert refusal(config_values).startswith(f"{key} must be given, it is missing.")


@pytest.mark.parametrize(
    ("ids", "rule"),
    [
        ([], "must name a target layer"),
        ([1, 1], "must rise without repeating"),
        ([5, 1], "must rise without repeating"),
        ([-1, 5], "must lie in 0..7"),
        ([1, 8], "must lie in 0..7"),
        ([1, 5.0], "must be a whole number"),
        (5, "must be a list"),
    ],
)
def test_wrong_layer_ids_are_refused(config_values, ids, rule):
    config_values["dflash_config"]["target_layer_ids"] = ids
    text = refusal(config_values)
    assert text.startswith("target_layer_ids")
    assert rule in text


@pytest.mark.parametrize("mask", [-1, 320])
def test_a_mask_token_outside_the_vocabulary_is_refused(config_values, mask):
    config_values["dflash_config"]["mask_token_id"] = mask
    assert f"below vocab_size = 320, got {mask}" in refusal(config_values)


@pytest.mark.parametrize("told", [True, False])
def test_what_the_template_was_told_about_thinking_is_a_fact_beside_the_shape(config_values, told):
    config_values["dpace"] = {"enable_thinking": told}
    config = DrafterConfig.from_dict(config_values)
    assert config.enable_thinking is told
    assert config.to_dict()["dpace"] == {"enable_thinking": told}
    config_values["dpace"] = {"enable_thinking": "no"}
    assert "enable_thinking must be true or false, got 'no'" in refusal(config_values)


def test_a_drafter_whose_template_was_told_nothing_has_no_such_key(config_values):
    config = DrafterConfig.from_dict(config_values)
    assert config.enable_thinking is None
    assert "dpace" not in config.to_dict()
