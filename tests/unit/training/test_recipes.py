"""The committed recipes, and the command line over them."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from dpace_serve.config import load_config
from dpace_serve.errors import CheckpointError, ConfigError
from dpace_training.cli import app
from dpace_training.config import TrainConfig
from dpace_training.data.target_model import load_target, target_revision
from dpace_training.fit.checkpoint import write_config
from dpace_training.losses.config import RECIPES, LossConfig
from dpace_training.study.config import StudyConfig

CONFIGS = Path(__file__).parents[3] / "training" / "configs"
DEMO = ("demo-uniform", "demo-dflash", "demo-dpace")


def test_every_recipe_is_valid():
    recipes = sorted(CONFIGS.glob("*.yaml"))
    assert {path.stem for path in recipes} >= set(DEMO)
    for recipe in recipes:
        load_config(TrainConfig, recipe, [])


def test_every_study_is_valid():
    studies = sorted((CONFIGS / "studies").glob("*.yaml"))
    assert studies
    for study in studies:
        load_config(StudyConfig, study, [])


def test_the_demo_recipes_differ_in_output_and_objective_alone():
    recipes = [load_config(TrainConfig, CONFIGS / f"{name}.yaml", []) for name in DEMO]
    assert [recipe.loss.weighting for recipe in recipes] == ["uniform", "exp_decay", "dpace"]
    assert [recipe.loss.name for recipe in recipes] == ["uniform", "dflash", "dpace"]
    differing = {"output": True, "loss": {"recipe", "weighting"}}
    rest = [recipe.model_dump(exclude=differing) for recipe in recipes]
    assert rest[0] == rest[1] == rest[2]


def test_an_override_replaces_a_setting():
    config = load_config(TrainConfig, CONFIGS / "demo-dpace.yaml", ["loss.alpha=0.25"])
    assert config.loss.alpha == 0.25


def test_a_recipe_can_be_replaced_on_the_command_line():
    config = load_config(TrainConfig, CONFIGS / "demo-dpace.yaml", ["loss.recipe=auf"])
    assert (config.loss.weighting, config.loss.support) == ("uniform", "until_first_error")


@pytest.mark.parametrize("trained_with", RECIPES)
@pytest.mark.parametrize("wanted", ["uniform", "left_to_right", "lk"])
def test_another_recipe_replaces_all_of_the_one_that_a_run_wrote_down(
    tmp_path, trained_with, wanted
):
    demo = CONFIGS / "demo-dpace.yaml"
    write_config(tmp_path, load_config(TrainConfig, demo, [f"loss.recipe={trained_with}"]))
    changed = load_config(TrainConfig, tmp_path / "train.yaml", [f"loss.recipe={wanted}"])
    assert changed.loss == LossConfig(recipe=wanted)
    assert changed.loss.name == wanted


@pytest.mark.parametrize(
    "overrides",
    [["loss.recipe=positional", "loss.gamma=3"], ["loss.gamma=3", "loss.recipe=positional"]],
)
def test_what_the_command_sets_beside_a_recipe_stays_in_any_order(tmp_path, overrides):
    file = tmp_path / "train.yaml"
    values = load_config(TrainConfig, CONFIGS / "demo-dpace.yaml", []).model_dump(mode="json")
    values["loss"] = {"recipe": "left_to_right", "gamma": 5.0, "reduction": "batch"}
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    # The file's gamma belongs to its recipe, the reduction to none.
    replaced = load_config(TrainConfig, file, ["loss.recipe=positional"]).loss
    assert (replaced.gamma, replaced.reduction) == (10.0, "batch")
    assert load_config(TrainConfig, file, overrides).loss.gamma == 3


def test_without_a_recipe_the_written_settings_stay_as_they_are(tmp_path):
    write_config(tmp_path, load_config(TrainConfig, CONFIGS / "demo-dflash.yaml", []))
    bare = load_config(TrainConfig, tmp_path / "train.yaml", ["loss.recipe=null"]).loss
    assert bare == LossConfig(weighting="exp_decay")


def test_the_recipe_of_one_arm_of_a_study_can_be_replaced():
    study = CONFIGS / "studies" / "reproduce.yaml"
    arms = load_config(StudyConfig, study, ["arms.dpace_kl.recipe=auf"]).arms
    assert arms["dpace_kl"] == LossConfig(recipe="auf")
    assert arms["auf_kl"].name == "auf token_loss=kl labels=soft"


def test_a_misspelt_setting_is_refused_with_its_place():
    with pytest.raises(ConfigError, match=r"unknown key fit\.epoch\. Known keys there: allow_tail"):
        load_config(TrainConfig, CONFIGS / "demo-dpace.yaml", ["fit.epoch=1"])


def test_the_commands_explain_themselves():
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert all(command in shown.output for command in ("prepare", "train", "eval"))


def test_a_missing_target_is_one_clear_error(tmp_path):
    import torch

    with pytest.raises(CheckpointError, match=r"no target model there \(config.json is missing\)"):
        load_target(tmp_path, dtype=torch.float32)


def test_the_revision_names_exactly_these_weights(target_folder, tmp_path):
    for path in target_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert target_revision(tmp_path) == target_revision(target_folder)
    weights = tmp_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert target_revision(tmp_path) != target_revision(target_folder)
