"""The bundled drafters against the recipes that make them."""

from pathlib import Path

import pytest
import torch

from dpace_serve.config import load_config
from dpace_serve.demo.bundle import drafter_folder, target_folder
from dpace_serve.drafter import checkpoint
from dpace_training.config import TrainConfig
from dpace_training.data.target_model import load_target_ends
from dpace_training.demo.build import BUNDLED
from dpace_training.drafter.shape import drafter_config

CONFIGS = Path(__file__).parents[4] / "training" / "configs"


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_drafter_says_of_itself_what_its_recipe_makes(name):
    recipe = load_config(TrainConfig, CONFIGS / f"demo-{name}.yaml", [])
    target = load_target_ends(target_folder(), dtype=torch.float32)
    bundled = checkpoint.read_config(drafter_folder(name))
    assert bundled == drafter_config(recipe, target)
    assert bundled.objective == name
