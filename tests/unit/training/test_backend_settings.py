"""Which settings of who runs the target go together."""

from pathlib import Path

import pytest

from dpace_serve.config import load_config
from dpace_serve.errors import ConfigError
from dpace_training.config import TrainConfig

RECIPE = Path(__file__).parents[3] / "training" / "configs" / "demo-dpace.yaml"


def load(*overrides):
    return load_config(TrainConfig, RECIPE, list(overrides))


def test_this_process_runs_the_target_by_default():
    data = load().data
    assert (data.regenerate.backend, data.hidden_states_backend) == ("transformers", "transformers")


def test_a_server_needs_its_address():
    with pytest.raises(ConfigError, match=r"openai.base_url and openai.model must be set"):
        load("data.regenerate.backend=openai")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://me:secret@host/v1", "must hold no password"),
        ("http://host/v1?key=secret", "must hold no password and no query"),
        ("host:8000/v1", "must start with http"),
        ("ftp://host/v1", "must start with http"),
    ],
)
def test_an_address_holds_no_secret_and_is_one(address, reason):
    with pytest.raises(ConfigError, match=reason):
        load(
            "data.regenerate.backend=openai",
            "data.regenerate.openai.model=tiny",
            f"data.regenerate.openai.base_url={address}",
        )


def test_the_engine_computes_only_what_is_cached():
    with pytest.raises(ConfigError, match="hidden_states must be cache"):
        load("data.hidden_states_backend=vllm", "data.hidden_states=recompute")
