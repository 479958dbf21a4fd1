import json

import pytest

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
