"""Configuration files and overrides: what is accepted, and the one line that refuses the rest."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from dpace_serve.config import Config, build_config, load_config
from dpace_serve.errors import ConfigError, DpaceError
from dpace_serve.serve_config import ServeConfig


class Loss(Config):
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    gamma: float = 4.0


class Recipe(Config):
    name: str
    steps: Annotated[int, Field(ge=1)] = 100
    loss: Loss = Loss()
    optional_loss: Loss | None = None
    stages: tuple[Loss, ...] = ()
    folder: Path | None = None


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(Recipe, path, overrides)
    text = str(caught.value)
    assert "\n" not in text, "a refusal is one line"
    return text


def test_a_file_fills_nested_settings_and_leaves_the_rest_at_its_default(tmp_path):
    path = write(tmp_path, "name: first\nloss:\n  alpha: 0.25\n")
    recipe = load_config(Recipe, path, [])
    assert (recipe.name, recipe.steps) == ("first", 100)
    assert (recipe.loss.alpha, recipe.loss.gamma) == (0.25, 4.0)


def test_an_override_wins_over_the_file_and_leaves_its_neighbours_alone(tmp_path):
    path = write(tmp_path, "name: first\nsteps: 7\nloss: {alpha: 0.25, gamma: 2}\n")
    recipe = load_config(Recipe, path, ["loss.alpha=1", "name=second"])
    assert recipe == Recipe(name="second", steps=7, loss=Loss(alpha=1.0, gamma=2.0))


def test_the_last_of_two_overrides_wins():
    assert load_config(Recipe, None, ["name=a", "name=b"]).name == "b"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("loss.gamma=1e-3", Loss(gamma=0.001)),
        ("loss={alpha: 0.1}", Loss(alpha=0.1)),
        ("loss.gamma= 3 ", Loss(gamma=3.0)),
    ],
)
def test_the_value_of_an_override_is_read_as_yaml(override, expected):
    assert load_config(Recipe, None, ["name=a", override]).loss == expected


def test_an_override_may_hold_an_equals_sign_or_nothing_in_its_value():
    assert load_config(Recipe, None, ["name=a=b"]).name == "a=b"
    assert load_config(Recipe, None, ["name=a", "folder="]).folder is None


def test_an_override_can_fill_a_group_that_the_file_leaves_empty(tmp_path):
    path = write(tmp_path, "name: a\nloss:\n  # alpha: 0.25\n")
    assert load_config(Recipe, path, ["loss.alpha=0.75"]).loss.alpha == 0.75


def test_an_empty_file_means_the_defaults(tmp_path):
    path = write(tmp_path, "# nothing yet\n")
    assert load_config(Recipe, path, ["name=a"]) == Recipe(name="a")


def test_an_unknown_key_is_named_with_the_known_ones_beside_it():
    text = refusal(None, "name=a", "loss.alfa=0.1")
    assert "unknown key loss.alfa" in text
    assert "Known keys there: alpha, gamma." in text


@pytest.mark.parametrize("override", ["optional_loss.alfa=1", "stages=[{alfa: 1}]"])
def test_known_keys_are_those_of_the_group_also_inside_an_optional_or_a_list(override):
    assert "Known keys there: alpha, gamma." in refusal(None, "name=a", override)


def test_a_misspelt_required_key_is_reported_as_unknown_and_not_as_missing():
    text = refusal(None, "nam=a")
    assert "unknown key nam" in text
    assert "name" in text.split("Known keys there: ")[1]


def test_a_missing_required_key_says_so_and_how_to_mend_it():
    assert refusal(None) == "the defaults: name is not set and has no default. Set it."


@pytest.mark.parametrize(
    ("override", "fragment"),
    [
        ("loss.alpha=1.5", "loss.alpha: Input should be less than or equal to 1, got 1.5"),
        ("loss.alpha=-0.1", "loss.alpha: Input should be greater than or equal to 0, got -0.1"),
        ("steps=0", "steps: Input should be greater than or equal to 1, got 0"),
        ("steps=2.5", "steps: Input should be a valid integer"),
        ("loss.gamma=.nan", "loss.gamma: Input should be a finite number, got nan"),
        ("loss.gamma=.inf", "loss.gamma: Input should be a finite number, got inf"),
        ("loss=3", "loss: Input should be a valid dictionary"),
    ],
)
def test_a_value_out_of_bounds_is_named_with_its_bound(override, fragment):
    assert fragment in refusal(None, "name=a", override)


def test_a_long_wrong_value_is_shortened():
    text = refusal(None, "name=a", f"steps={'x' * 500}")
    assert "xxx..." in text
    assert len(text) < 250


def test_a_refusal_names_every_place_the_values_came_from(tmp_path):
    path = write(tmp_path, "name: a\n")
    assert refusal(path, "steps=0").startswith(f"{path} and the command: steps: ")
    assert refusal(None, "name=a", "steps=0").startswith("the command: steps: ")
    path = write(tmp_path, "name: a\nsteps: 0\n")
    assert refusal(path).startswith(f"{path}: steps: ")


@pytest.mark.parametrize(
    ("override", "fragment"),
    [
        ("steps", "must read key=value"),
        ("=3", "must read key=value"),
        ("steps=[1", "not valid YAML"),
        ("name=2024-99-99", "not valid YAML"),
        ("name.first=a", "name is a value, not a group of settings"),
        ("name={a: 1, a: 2}", "not valid YAML"),
    ],
)
def test_a_malformed_override_is_refused(tmp_path, override, fragment):
    path = write(tmp_path, "name: a\n")
    text = refusal(path, override)
    assert fragment in text
    assert repr(override) in text


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        ("name: [a\n", "not valid YAML"),
        ("name: 2024-99-99\n", "not valid YAML"),
        ("name: a\nsteps: 1\nname: b\n", "the key name stands there twice"),
        ("loss: {alpha: 0, alpha: 1}\n", "the key alpha stands there twice"),
        ("name: !!python/object:os.system {}\n", "not valid YAML"),
        ("- name\n", "must hold a mapping, holds a list"),
        ("just words\n", "must hold a mapping, holds a str"),
        ("name: a\n1: 2\n", "Keys should be strings"),
        ("? [a, b]\n: c\n", "not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_name(tmp_path, content, fragment):
    path = write(tmp_path, content)
    text = refusal(path)
    assert text.startswith(str(path))
    assert fragment in text


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"name: \xff\xfe")
    assert "not valid YAML" in refusal(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "No such file or directory" in refusal(tmp_path / "absent.yaml")
    assert "Is a directory" in refusal(tmp_path)


def test_anchors_and_merge_keys_still_work(tmp_path):
    path = write(
        tmp_path, "name: a\nloss: &base {alpha: 0.1}\noptional_loss: {<<: *base, gamma: 9}\n"
    )
    assert load_config(Recipe, path, []).optional_loss == Loss(alpha=0.1, gamma=9)


def test_a_configuration_is_frozen():
    recipe = Recipe(name="a")
    with pytest.raises(ValidationError, match="frozen"):
        recipe.steps = 3


def test_the_mapping_given_is_what_is_checked():
    assert build_config(Recipe, {"name": "a", "steps": 3}, source="here").steps == 3
    with pytest.raises(DpaceError, match=r"^here: steps: "):
        build_config(Recipe, {"name": "a", "steps": 0}, source="here")


def test_serving_needs_a_target_and_a_port_that_exists():
    assert load_config(ServeConfig, None, ["target=models/target"]).drafter is None
    for port in (0, 65536):
        with pytest.raises(ConfigError, match="port: Input should be"):
            load_config(ServeConfig, None, ["target=t", f"port={port}"])
    with pytest.raises(ConfigError, match="num_draft_tokens: Input should be"):
        load_config(ServeConfig, None, ["target=t", "num_draft_tokens=0"])


def test_challengers_need_a_champion_that_keeps_a_share():
    split = ["target=t", "drafter=a", "challengers=[b, c]", "mode=split"]
    assert load_config(ServeConfig, None, split).challengers == (Path("b"), Path("c"))
    with pytest.raises(ConfigError, match=r"must sum to less than 1, 2 of 0\.5 do not"):
        load_config(ServeConfig, None, [*split, "share=0.5"])
    load_config(ServeConfig, None, ["target=t", "drafter=a", "challengers=[b, c]", "share=0.5"])
    with pytest.raises(ConfigError, match="challengers need a drafter"):
        load_config(ServeConfig, None, ["target=t", "challengers=[b]"])


@pytest.mark.parametrize(
    "override",
    [
        "share=0",
        "share=1",
        "shadow_share=1.1",
        "spare_drafter_slots=-1",
        "drain_timeout_seconds=-1",
        "mode=both",
    ],
)
def test_settings_of_several_drafters_are_bounded(override):
    with pytest.raises(ConfigError, match=override.split("=")[0]):
        load_config(ServeConfig, None, ["target=t", override])


@pytest.mark.parametrize(
    ("settings", "has_admin_key", "expected"),
    [
        ([], False, 0),
        (["drafter_root=r"], False, 0),
        ([], True, 0),
        (["drafter_root=r"], True, 1),
        (["drafter_root=r", "spare_drafter_slots=0"], True, 0),
        (["spare_drafter_slots=2"], False, 2),
    ],
)
def test_a_spare_slot_is_kept_where_drafters_can_be_loaded(settings, has_admin_key, expected):
    config = load_config(ServeConfig, None, ["target=t", "drafter=d", *settings])
    assert config.num_spare_slots(has_admin_key=has_admin_key) == expected


def test_no_log_is_kept_unless_it_is_configured():
    assert ServeConfig(target="t").acceptance_log is None


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({}, "acceptance_log.path"),
        ({"path": "log", "keep_files": 0}, "acceptance_log.keep_files"),
        ({"path": "log", "max_megabytes": 0}, "acceptance_log.max_megabytes"),
        ({"path": "log", "fsync": "weekly"}, "acceptance_log.fsync"),
        ({"path": "log", "size": 1}, "acceptance_log.size"),
    ],
)
def test_a_log_that_cannot_be_is_refused_by_its_key(wrong, key):
    with pytest.raises(ConfigError, match=key.replace(".", "[.]")):
        build_config(ServeConfig, {"target": "t", "acceptance_log": wrong}, source="the test")


# --- what of the traffic is kept ---


def captured(*overrides: str) -> ServeConfig:
    return load_config(ServeConfig, None, ["target=t", "drafter=d", *overrides])


def test_capture_is_off_until_a_folder_and_workloads_are_named():
    assert captured().capture is None
    kept = captured("capture.folder=kept", "capture.workloads=[code]").capture
    assert kept is not None
    assert (kept.folder, kept.workloads) == (Path("kept"), ("code",))
    for given, missing in (("folder=kept", "workloads"), ("workloads=[code]", "folder")):
        with pytest.raises(ConfigError, match=rf"capture\.{missing} is not set"):
            captured(f"capture.{given}")
    with pytest.raises(ConfigError, match=r"capture\.workloads: .* at least 1"):
        captured("capture.folder=kept", "capture.workloads=[]")


def test_a_workload_that_no_request_can_carry_is_refused():
    with pytest.raises(ConfigError, match=r"among workloads and other, poems is not"):
        captured("capture.folder=kept", "capture.workloads=[code, poems, other]")
    own = captured("workloads=[poems]", "capture.folder=kept", "capture.workloads=[poems, other]")
    assert own.capture is not None


def test_capture_without_a_drafter_is_refused_since_it_would_keep_nothing():
    with pytest.raises(ConfigError, match="capture needs a drafter"):
        captured("drafter=null", "capture.folder=kept", "capture.workloads=[code]")
