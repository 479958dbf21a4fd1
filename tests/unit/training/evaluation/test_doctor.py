"""A drafter whose config was changed after training is found by measuring it."""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from dpace_serve.cli import app
from dpace_serve.drafter import checkpoint
from dpace_serve.drafter.rope import RopeScaling
from dpace_serve.errors import CheckpointError, ConfigError
from dpace_training.config import TrainConfig
from dpace_training.data.sources import read_source
from dpace_training.data.target_model import load_target
from dpace_training.evaluation.compare import answer_prompts, load_drafter
from dpace_training.evaluation.config import ComparisonConfig
from dpace_training.evaluation.doctor import _Replays, _rotations, examine_by_replay
from dpace_training.fit import run

LIMIT = 24
CHECKS = [
    "target revision",
    "acceptance",
    "layer ids, replayed",
    "mask token, replayed",
    "rotation, replayed",
]


@dataclass(frozen=True)
class Trained:
    target: Path
    drafter: Path
    prompts: Path

    def examine(self, drafter, target=None):
        config = ComparisonConfig(conversations=self.prompts, max_new_tokens=LIMIT)
        found = examine_by_replay(
            target or self.target, drafter, config, device=torch.device("cpu")
        )
        assert [finding.check for finding in found] == CHECKS
        return found


@pytest.fixture(name="trained", scope="module")
def train_drafter(target_folder, tmp_path_factory):
    """A drafter that needs the right layers: its target's layers change much, and it knows it."""
    folder = tmp_path_factory.mktemp("doctor")
    target = shutil.copytree(target_folder, folder / "target")
    weights = load_file(target / "model.safetensors")
    for name, tensor in weights.items():
        if "o_proj" in name or "down_proj" in name:
            tensor.mul_(5)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    questions = [f"say {chr(97 + i) * (1 + i % 2)}" for i in range(24)]
    chats = [{"messages": [{"role": "user", "content": question}]} for question in questions]
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    config = {
        "target": target,
        "output": folder / "drafter",
        "data": {
            "conversations": prompts,
            "work": folder / "work",
            "regenerate": {"max_new_tokens": LIMIT},
        },
        "drafter": {"num_hidden_layers": 1, "block_size": 4, "num_taps": 2},
        "fit": {"epochs": 150, "batch_size": 24, "learning_rate": 1e-2, "allow_tail": True},
    }
    run.train(TrainConfig.model_validate(config))
    return Trained(target, folder / "drafter", prompts)


@pytest.fixture(name="drafter")
def copy_drafter(trained, tmp_path):
    return shutil.copytree(trained.drafter, tmp_path / "drafter")


def damage(folder, *, dflash=False, **changes):
    file = folder / "config.json"
    values = json.loads(file.read_text())
    (values["dflash_config"] if dflash else values).update(changes)
    file.write_text(json.dumps(values))


def failures(trained, drafter):
    found = trained.examine(drafter)
    return {finding.check: finding.line() for finding in found if not finding.ok}


def test_a_sound_drafter_passes_every_measurement(trained, drafter):
    found = trained.examine(drafter)
    assert all(finding.ok and not finding.is_note for finding in found)
    assert "as in training" in found[0].message
    assert "not clearly worse than [0, 2] or [2, 4]" in found[2].message
    assert "no likely alternative" in found[3].message


@pytest.mark.parametrize("shifted", [[2, 4], [0, 2]])
def test_layer_ids_counted_another_way_are_found(trained, drafter, shifted):
    assert checkpoint.read_config(drafter).target_layer_ids == (1, 3)
    damage(drafter, dflash=True, target_layer_ids=shifted)
    line = failures(trained, drafter)["layer ids, replayed"]
    assert f"longer with [1, 3] than with target_layer_ids {shifted}. Write that" in line


def test_another_mask_token_is_found(trained, drafter):
    damage(drafter, dflash=True, mask_token_id=7)
    line = failures(trained, drafter)["mask token, replayed"]
    assert "longer with 258 than with mask_token_id 7" in line


@pytest.mark.parametrize(
    ("rope", "shown"),
    [
        ({"rope_theta": 3.0}, "rope_theta 3"),
        (
            {"rope_theta": 10000.0, "rope_type": "linear", "factor": 60.0},
            "rope_theta 10000, rope_type linear, factor 60",
        ),
        (
            {"rope_theta": 10000.0, "partial_rotary_factor": 0.125},
            "rope_theta 10000, partial_rotary_factor 0.125",
        ),
    ],
)
def test_another_rotation_is_found(trained, drafter, rope, shown):
    damage(drafter, rope_theta=rope["rope_theta"], rope_parameters=rope)
    line = failures(trained, drafter)["rotation, replayed"]
    assert f"longer with rope_theta 10000 than with {shown}. Write that into" in line


def with_rotation(trained, folder, **rope):
    target = shutil.copytree(trained.target, folder / "rotated")
    values = json.loads((target / "config.json").read_text())
    values["rope_parameters"] = {"rope_theta": 500.0, **rope}
    (target / "config.json").write_text(json.dumps(values))
    return load_target(target, dtype=torch.float32)


YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32}


def test_the_targets_whole_rotation_is_tried_and_its_base_alone(trained, tmp_path):
    target = with_rotation(trained, tmp_path, **YARN, partial_rotary_factor=0.5)
    config = load_drafter(trained.drafter).config
    whole, base = _rotations(config, target)
    assert whole.rope_scaling == RopeScaling(**YARN)
    assert (whole.rope_theta, whole.partial_rotary_factor) == (500.0, 0.5)
    assert base == dataclasses.replace(config, rope_theta=500.0)
    # One parameter of the scaling is enough to be another rotation; none is not.
    wrong = dataclasses.replace(whole, rope_scaling=RopeScaling(**YARN | {"factor": 16.0}))
    assert [reading.rope for reading in _rotations(wrong, target)] == [whole.rope]
    assert _rotations(whole, target) == []


def test_a_targets_rotation_that_no_drafter_can_have_is_named_and_left_out(
    trained, tmp_path, caplog
):
    target = with_rotation(trained, tmp_path, rope_type="dynamic", factor=2.0)
    config = load_drafter(trained.drafter).config
    assert [reading.rope_theta for reading in _rotations(config, target)] == [500.0]
    assert "rotation is not replayed: rope_type must be one of" in caplog.text


def scramble(folder):
    tensors = checkpoint.read_tensors(folder)
    flipped = {name: tensor.flip(0).contiguous() for name, tensor in tensors.items()}
    checkpoint.write(folder, checkpoint.read_config(folder), flipped)


def test_weights_that_draft_nothing_right_are_found(trained, drafter):
    scramble(drafter)
    assert "Almost no draft is right" in failures(trained, drafter)["acceptance"]


def test_another_target_than_in_training_is_a_note(trained, drafter, tmp_path):
    target = shutil.copytree(trained.target, tmp_path / "target")
    template = target / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    found = trained.examine(drafter, target)
    assert found[0].is_note
    assert "chat template differ" in found[0].line()


def test_a_target_that_is_not_here_is_refused(trained, drafter, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: None)
    with pytest.raises(CheckpointError, match="no local copy to replay"):
        trained.examine(drafter, "some/target")


def test_a_replay_needs_prompts(trained, drafter):
    with pytest.raises(ConfigError, match="no prompts to replay"):
        examine_by_replay(trained.target, drafter, ComparisonConfig(), device=torch.device("cpu"))


def test_the_command_measures_where_it_is_asked_to(trained, drafter, tmp_path):
    scramble(drafter)
    result = tmp_path / "result.json"
    arguments = ["doctor", f"--target={trained.target}", f"--drafter={drafter}"]
    replay = [f"--replay={trained.prompts}", f"--json={result}"]
    assert CliRunner().invoke(app, arguments).exit_code == 0  # files alone cannot prove it
    shown = CliRunner().invoke(app, [*arguments, *replay])
    assert shown.exit_code == 1
    assert "FAIL  acceptance: 0.0" in shown.stdout
    written = {found["check"]: found for found in json.loads(result.read_text())["findings"]}
    assert written.keys() >= set(CHECKS)
    assert not written["acceptance"]["ok"]


def test_a_drafter_that_does_not_fit_is_not_replayed(trained, drafter):
    arguments = [f"--target={trained.target}", f"--drafter={drafter}", "--num-draft-tokens=9"]
    shown = CliRunner().invoke(app, ["doctor", *arguments, f"--replay={trained.prompts}"])
    assert shown.exit_code == 1
    assert "FAIL  draft length: num_draft_tokens must lie in 1..3" in shown.stdout
    assert "note  replay: left out, because a check failed." in shown.stdout


def test_the_target_reads_the_answers_once_for_all_readings_of_the_same_layers(trained):
    drafter = load_drafter(trained.drafter)
    target = load_target(trained.target, dtype=torch.float32)
    config = ComparisonConfig(conversations=trained.prompts, max_new_tokens=LIMIT)
    sources = read_source(trained.prompts, config.input, needs_prompt=True)
    documents = answer_prompts(target, sources, config, None)
    replays = _Replays(target, drafter, documents, batch_size=len(documents))
    passes = []
    target.model.base_model.register_forward_hook(lambda *_: passes.append(1))
    own = replays.pairs(drafter.config)
    once = len(passes)
    other_mask = dataclasses.replace(drafter.config, mask_token_id=0)
    assert replays.pairs(other_mask) != own
    assert len(passes) == once > 0
    replays.pairs(dataclasses.replace(drafter.config, target_layer_ids=(0, 2)))
    assert len(passes) == 2 * once
