"""The committed recipes, and the command line over them."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dpace_serve.config import load_config
from dpace_serve.errors import CheckpointError, ConfigError
from dpace_training.cli import app
from dpace_training.config import TrainConfig
from dpace_training.data.target_model import load_target, target_revision
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
