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
        ("http://me:se/secret@host/v1", "must hold no password"),
        ("me:secret@host/v1", "must hold no password"),
        ("host:8000/v1", "must start with http"),
        ("ftp://host/v1", "must start with http"),
    ],
)
def test_an_address_holds_no_secret_and_is_one(address, reason):
    with pytest.raises(ConfigError, match=reason) as caught:
        load(
            "data.regenerate.backend=openai",
            "data.regenerate.openai.model=tiny",
            f"data.regenerate.openai.base_url={address}",
        )
    assert "secret" not in str(caught.value)


def test_the_engine_computes_only_what_is_cached():
    with pytest.raises(ConfigError, match="hidden_states must be cache"):
        load("data.hidden_states_backend=vllm", "data.hidden_states=recompute")


@pytest.mark.parametrize(
    "override",
    [
        "data.regenerate.openai=http://me:secret@host/v1",
        "data.regenerate.openai.base_url=[http://me:secret@host/v1",
        "data.regenerate.openai.base_url.x=http://me:secret@host/v1",
        "target={api_key: secret}",
    ],
)
def test_no_refused_setting_quotes_a_secret(override):
    with pytest.raises(ConfigError) as caught:
        load("data.regenerate.openai.base_url=http://host/v1", override)
    assert "secret" not in str(caught.value)
    assert "***" in str(caught.value) or "got a group of settings" in str(caught.value)


def test_a_damaged_file_does_not_quote_its_lines(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("output: here\nopenai: {base_url: http://me:secret@host/v1\n")
    with pytest.raises(ConfigError, match=r"not valid YAML \(.*, line 3\)") as caught:
        load_config(TrainConfig, file, [])
    assert "secret" not in str(caught.value)
