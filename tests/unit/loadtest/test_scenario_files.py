from pathlib import Path

import pytest

from dpace_loadtest.plan import cells
from dpace_loadtest.prompts import load_conversations
from dpace_loadtest.scenario import ScenarioConfig
from dpace_serve.config import load_config

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "loadtest" / "scenarios").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_scenario_is_valid_and_its_prompts_are_there(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    scenario = load_config(ScenarioConfig, file, [])
    conversations = load_conversations(scenario)
    assert all(conversations.values())
    assert cells(scenario)


def test_the_kinds_of_scenarios_that_the_guide_promises_are_there():
    assert {file.stem for file in FILES} == {
        "smoke", "steady", "sweep", "compare-drafters", "baseline", "chat"
    }  # fmt: skip
