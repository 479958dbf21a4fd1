import json

import pytest
import torch
from safetensors.torch import save_file

from dpace_serve.demo import bundle
from dpace_serve.drafter.doctor import examine, require_servable
from dpace_serve.errors import CheckpointError

CHECKS = [
    "target config",
    "drafter files",
    "hidden size",
    "vocabulary",
    "target layers",
    "mask token",
    "rotation",
    "head",
    "chat template",
    "number format",
    "layer convention",
    "draft length",
    "head size",
]


def failures(target, drafter, num_draft_tokens=None):
    """Failed checks with their lines; and the error is the first of them."""
    findings = examine(target.path, drafter.path, num_draft_tokens)
    failed = {finding.check: finding.line() for finding in findings if not finding.ok}
    with pytest.raises(CheckpointError) as caught:
        require_servable(target.path, drafter.path, num_draft_tokens)
    assert str(caught.value) == next(iter(failed.values()))
    assert "\n" not in str(caught.value)
    return failed


def notes(target, drafter, num_draft_tokens=None):
    found = require_servable(target, drafter, num_draft_tokens)
    return {finding.check: finding.line() for finding in found if finding.is_note}


def test_a_fitting_pair_passes_every_check_without_a_note(target, drafter):
    findings = require_servable(target.path, drafter.path)
    assert [finding.check for finding in findings] == CHECKS
    assert all(finding.ok and not finding.is_note for finding in findings)


def test_another_hidden_size_is_found_by_its_check(target, drafter):
    target.set_config(hidden_size=96)
    failed = failures(target, drafter)
    assert failed.keys() == {"hidden size"}
    assert "hidden_size must be 96 for this target, got 64" in failed["hidden size"]


def test_another_vocabulary_is_found(target, drafter):
    target.set_config(vocab_size=512)
    assert "vocab_size must be 512" in failures(target, drafter)["vocabulary"]


def test_taps_past_the_last_layer_are_found(target, drafter):
    target.set_config(num_hidden_layers=5)
    assert "must lie in 0..4" in failures(target, drafter)["target layers"]


def test_another_depth_of_the_target_is_found(target, drafter):
    target.set_config(num_hidden_layers=12)
    assert "num_target_layers must be 12" in failures(target, drafter)["target layers"]


def test_a_damaged_drafter_stops_the_comparison(target, drafter):
    drafter.weights.write_bytes(b"")
    failed = failures(target, drafter)
    assert failed.keys() == {"drafter files"}
    assert "damaged safetensors file" in failed["drafter files"]


def test_a_missing_target_folder_is_found(tmp_path, drafter):
    findings = examine(tmp_path / "none", drafter.path)
    assert not findings[0].ok
    assert "target's folder does not exist" in findings[0].message


def test_a_target_without_sizes_is_found(target, drafter):
    target.set_config(hidden_size=None)
    assert "hidden_size must be a whole number" in failures(target, drafter)["target config"]


def test_a_multimodal_target_is_read_through_its_text_part(target, drafter):
    text = json.loads((target.path / "config.json").read_text())
    whole = {"model_type": "vision", "hidden_size": 9, "text_config": text}
    (target.path / "config.json").write_text(json.dumps(whole))
    require_servable(target.path, drafter.path)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (0, "must not be the target's end of text"),
        (4, "must be an unused or special token, 4 is 'a'"),
        (2, "must not stand in texts, the chat template writes 2, '<|turn|>'"),
    ],
)
def test_a_mask_token_that_text_contains_is_found(target, drafter, mask, reason):
    drafter.set_dflash(mask_token_id=mask)
    assert reason in failures(target, drafter)["mask token"]


def test_an_end_token_of_the_generation_config_counts_too(target, drafter):
    (target.path / "generation_config.json").write_text('{"eos_token_id": [0, 3]}')
    assert "end of text, got 3" in failures(target, drafter)["mask token"]


def test_an_unused_id_may_be_the_mask_token(target, drafter):
    drafter.set_dflash(mask_token_id=300)
    assert notes(target.path, drafter.path) == {}


def test_a_unigram_vocabulary_is_understood(target, drafter):
    tokenizer = {
        "model": {"type": "Unigram", "vocab": [["<unk>", 0], ["b", 0], ["c", 0], ["d", 0]]}
    }
    (target.path / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "3 is 'd'" in failures(target, drafter)["mask token"]


def test_a_target_without_tokenizer_is_a_note(target, drafter):
    (target.path / "tokenizer.json").unlink()
    assert notes(target.path, drafter.path).keys() == {"mask token"}


def test_a_longer_draft_than_trained_is_refused(target, drafter):
    line = failures(target, drafter, num_draft_tokens=8)["draft length"]
    assert "must lie in 1..7 (block_size - 1), got 8" in line


def test_no_draft_at_all_is_refused(target, drafter):
    assert "got 0" in failures(target, drafter, num_draft_tokens=0)["draft length"]


def test_a_shorter_draft_is_a_note(target, drafter):
    line = notes(target.path, drafter.path, 3)["draft length"]
    assert line.startswith("3 draft tokens, although the drafter was trained for 7.")


@pytest.mark.parametrize("declared", ["<|pad|>", {"content": "<|pad|>"}])
def test_another_mask_token_of_the_tokenizer_is_a_note(target, drafter, declared):
    settings = target.path / "tokenizer_config.json"
    settings.write_text(json.dumps({"mask_token": declared}))
    line = notes(target.path, drafter.path)["mask token"]
    assert line.startswith("mask_token_id is 3, the tokenizer's own mask token is 1.")
    drafter.set_dflash(mask_token_id=1)
    assert notes(target.path, drafter.path) == {}


@pytest.mark.parametrize(("offset", "habit"), [(1, "from the embedding"), (-1, "leaves out")])
def test_layer_ids_counted_another_way_are_a_note(target, drafter, offset, habit):
    # 8 layers, 2 taps: the usual ids are 1 and 5.
    drafter.set_dflash(target_layer_ids=[1 + offset, 5 + offset])
    line = notes(target.path, drafter.path)["layer convention"]
    assert f"the usual [1, 5] {offset:+d}" in line
    assert habit in line
    assert "write [1, 5]" in line


def test_layer_ids_chosen_otherwise_are_no_note(target, drafter):
    drafter.set_dflash(target_layer_ids=[2, 5])
    assert notes(target.path, drafter.path) == {}


def test_scaled_positions_of_the_target_are_a_note(target, drafter):
    rope = {"rope_theta": 10000.0, "rope_type": "yarn", "factor": 4.0}
    target.set_config(rope_parameters=rope, max_position_embeddings=512)
    line = notes(target.path, drafter.path)["rotation"]
    assert "its scaling is default, the target's is yarn" in line


def test_a_former_name_of_scaled_positions_is_understood(target, drafter):
    target.set_config(
        rope_parameters=None, rope_theta=10000.0, rope_scaling={"type": "linear", "factor": 2}
    )
    assert "the target's is linear" in notes(target.path, drafter.path)["rotation"]


@pytest.mark.parametrize("place", ["rope_parameters", None])
def test_a_target_that_rotates_a_part_of_its_heads_is_a_note(target, drafter, place):
    rope = {"rope_theta": 10000.0, "partial_rotary_factor": 0.25}
    target.set_config(**({place: rope} if place else {"partial_rotary_factor": 0.25}))
    line = notes(target.path, drafter.path)["rotation"]
    assert "it rotates 100 % of a head, the target 25 %" in line


def test_a_drafter_that_rotates_as_its_target_does_is_no_note(target, drafter):
    rope = {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    target.set_config(rope_parameters=rope)
    drafter.set_config(partial_rotary_factor=0.5)
    assert notes(target.path, drafter.path) == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"is_causal": True}, "is_causal must be false"),
        ({"draft_vocab_size": 64}, "draft_vocab_size must equal vocab_size"),
    ],
)
def test_another_computation_is_refused_by_its_key(target, drafter, changes, words):
    drafter.set_config(**changes)
    assert words in failures(target, drafter)["drafter files"]


def test_a_causal_block_is_refused_by_its_key(target, drafter):
    drafter.set_dflash(causal=True)
    assert "dflash_config.causal must be false" in failures(target, drafter)["drafter files"]


def test_a_target_that_lost_its_head_is_found(target, drafter, tensors):
    target.set_config(tie_word_embeddings=False)
    assert notes(target.path, drafter.path) == {}  # no weights here: nothing to compare
    embedding = {"model.embed_tokens.weight": torch.zeros(4, 2)}
    save_file(embedding, target.path / "model.safetensors")
    assert "hold no lm_head.weight" in failures(target, drafter)["head"]
    save_file(embedding | {"lm_head.weight": torch.zeros(4, 2)}, target.path / "model.safetensors")
    assert notes(target.path, drafter.path) == {}


def test_an_index_names_the_head_where_its_shard_is_not_there(target, drafter):
    target.set_config(tie_word_embeddings=False)
    index = target.path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "model-2.safetensors"}}))
    assert notes(target.path, drafter.path) == {}
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "model-2.safetensors"}}))
    assert "hold no lm_head.weight" in failures(target, drafter)["head"]


def test_the_thinking_mode_of_the_training_is_compared(target, drafter):
    drafter.set_config(dpace={"enable_thinking": False})
    assert "which the template lacks" in failures(target, drafter)["chat template"]
    target.set_template("{% if enable_thinking %}<think>{% endif %}")
    line = notes(target.path, drafter.path)["chat template"]
    assert "was trained with enable_thinking = false. Serve it so" in line


def test_a_template_with_a_thinking_mode_is_a_note(target, drafter):
    target.set_template("{% if enable_thinking %}<think>{% endif %}")
    line = notes(target.path, drafter.path)["chat template"]
    assert "thinking mode (enable_thinking). Serve it as in training" in line


def test_templates_inside_the_tokenizer_config_are_read(target, drafter):
    (target.path / "chat_template.jinja").unlink()
    settings = target.path / "tokenizer_config.json"
    settings.write_text(json.dumps({"chat_template": "{{ enable_thinking }}"}))
    assert "thinking mode" in notes(target.path, drafter.path)["chat template"]
    named = [{"name": "default", "template": "x"}, {"name": "tool_use", "template": "y"}]
    settings.write_text(json.dumps({"chat_template": named}))
    assert notes(target.path, drafter.path) == {}


def test_a_target_without_chat_template_is_a_note(target, drafter):
    (target.path / "chat_template.jinja").unlink()
    assert "no chat template" in notes(target.path, drafter.path)["chat template"]


def test_another_number_format_than_the_target_is_a_note(target, drafter, tensors):
    target.set_config(dtype="bfloat16")
    assert notes(target.path, drafter.path) == {}
    drafter.save({name: tensor.half() for name, tensor in tensors.items()})
    line = notes(target.path, drafter.path)["number format"]
    assert line.startswith("the drafter's weights are float16, the target's bfloat16.")


@pytest.mark.parametrize("name", ["dpace", "dflash"])
def test_the_bundled_drafters_pass_without_a_note(name):
    assert notes(bundle.target_folder(), bundle.drafter_folder(name)) == {}


def test_another_rotation_is_only_a_note(target, drafter):
    drafter.set_config(rope_theta=1000000.0)
    assert "the target's is 10000" in notes(target.path, drafter.path)["rotation"]


def test_a_small_head_is_a_note_about_the_cpu(target, drafter, tensors):
    drafter.set_config(head_dim=16, num_attention_heads=8, num_key_value_heads=4)
    halved = {n: t[:16].clone() if n.endswith(("q_norm.weight", "k_norm.weight")) else t
              for n, t in tensors.items()}  # fmt: skip
    drafter.save(halved)
    assert "On CPU" in notes(target.path, drafter.path)["head size"]


def test_a_hub_name_without_a_local_copy_is_a_note(drafter, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: None)
    found = notes("some/target", drafter.path)
    assert found.keys() == {"target config"}
    assert "the pair was not compared" in found["target config"]


def test_a_hub_name_with_a_local_copy_is_compared(target, drafter, monkeypatch):
    copy = str(target.path / "config.json")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: copy)
    assert [finding.check for finding in examine("some/target", drafter.path)] == CHECKS


def with_windows(drafter, kinds):
    drafter.set_config(
        layer_types=[f"{kind}_attention" for kind in kinds],
        sliding_window=16,
        use_sliding_window=True,
    )


def test_a_window_in_all_layers_is_good(target, drafter):
    with_windows(drafter, ["sliding", "sliding"])
    finding = {f.check: f for f in examine(target.path, drafter.path)}["windows"]
    assert finding.ok
    assert finding.message == "2 of 2 layers have a window of 16 tokens."


def test_a_window_in_some_layers_is_refused_with_the_reason(target, drafter):
    with_windows(drafter, ["full", "sliding"])
    with pytest.raises(CheckpointError, match="vLLM serves with its second model runner only"):
        require_servable(target.path, drafter.path)
