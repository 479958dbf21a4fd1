"""The bundled drafter, sound as it is, with its config changed in every way that ruins one."""

import json
import shutil

import pytest

from dpace_serve.demo import bundle
from dpace_serve.drafter.doctor import examine


@pytest.fixture(name="drafter")
def copy_drafter(tmp_path):
    return shutil.copytree(bundle.drafter_folder("dpace"), tmp_path / "drafter")


def striking(drafter, num_draft_tokens=None):
    """Findings that are failures or notes, by check."""
    found = examine(bundle.target_folder(), drafter, num_draft_tokens)
    return {each.check: each for each in found if not each.ok or each.is_note}


@pytest.mark.parametrize(
    ("changes", "check", "words"),
    [
        ({"target_layer_ids": [2, 8, 14, 20, 26]}, "layer convention", "counts from the embedding"),
        ({"target_layer_ids": [0, 6, 12, 18, 24]}, "layer convention", "leaves out the first"),
        ({"target_layer_ids": [4, 10, 16, 22, 28]}, "drafter files", "must lie in 0..27"),
        ({"mask_token_id": 4096}, "drafter files", "must be a token id below vocab_size"),
        ({"mask_token_id": 0}, "mask token", "end of text"),
        ({"mask_token_id": 1}, "mask token", "the chat template writes 1"),
        ({"mask_token_id": 900}, "mask token", "must be an unused or special token"),
        ({"causal": True}, "drafter files", "dflash_config.causal must be false"),
        ({"block_size": 16}, "drafter files", "block_size must be the same in both places"),
    ],
)
def test_damage_inside_dflash_config_is_found_by_name(drafter, changes, check, words):
    file = drafter / "config.json"
    values = json.loads(file.read_text())
    values["dflash_config"] |= changes
    file.write_text(json.dumps(values))
    found = striking(drafter)
    assert found.keys() == {check}
    assert words in found[check].line()
    assert "\n" not in found[check].line()


@pytest.mark.parametrize(
    ("changes", "check", "words"),
    [
        ({"rope_theta": 1e6, "rope_parameters": None}, "rotation", "the target's is 10000"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            "rotation",
            "its scaling is linear, the target's is default",
        ),
        ({"partial_rotary_factor": 0.25}, "rotation", "rotates 25 % of a head, the target 100 %"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "drafter files", "dynamic"),
        ({"is_causal": True}, "drafter files", "is_causal must be false"),
        ({"vocab_size": 5000}, "vocabulary", "vocab_size must be 4096 for this target"),
        ({"num_target_layers": 36}, "target layers", "num_target_layers must be 28"),
        ({"has_own_lm_head": True}, "drafter files", "has_own_lm_head must be false"),
    ],
)
def test_damage_beside_it_is_found_by_name(drafter, changes, check, words):
    file = drafter / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    found = striking(drafter)
    assert check in found
    assert words in found[check].line()
    assert "\n" not in found[check].line()


def test_a_longer_block_than_trained_is_found_by_name(drafter):
    assert "must lie in 1..7" in striking(drafter, num_draft_tokens=15)["draft length"].line()


def test_the_undamaged_copy_has_nothing_to_find(drafter):
    assert striking(drafter) == {}
