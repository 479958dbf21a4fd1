"""Settings that nobody meant: every file and override fills the class or is refused in one line."""

import json
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dpace_loadtest.scenario import ScenarioConfig
from dpace_serve.config import build_config, load_config
from dpace_serve.errors import ConfigError
from dpace_serve.serve_config import ServeConfig
from dpace_serve.tuning.config import TuneConfig
from dpace_training.config import TrainConfig
from dpace_training.study.config import StudyConfig
from tests.fuzzing import FUZZ, SECRET, damaged, mutated, outcome

SERVE = {
    "target": "t",
    "drafter": "d",
    "draw_salt": SECRET,
    "challengers": ["a", "b"],
    "workloads": ["json", "sql"],
    "acceptance_log": {"path": "log", "max_megabytes": 3, "fsync": "rotate"},
    "capture": {"folder": "c", "workloads": ["json"]},
    "verdict": {"workload_weights": {"sql": 2}, "step_times": {"a": "f"}, "confidence": 0.9},
    "limits": {"max_prompts": 3, "body_timeout_seconds": 2.5},
    "observation": {"host": "::1", "port": 8001},
    "tls": {"certificate_file": "c", "key_file": "k"},
    "open_routes": ["POST /tokenize"],
    "engine_args": ["--max-num-seqs", "4"],
}
DOCUMENTS = {
    ServeConfig: SERVE,
    TuneConfig: {"serve": {"target": "t", "drafter": "d"}, "prompts": "p", "batch_sizes": [1, 2]},
    ScenarioConfig: {
        "arms": [{"name": "a", "url": "http://h:1"}, {"name": "b", "drafter": "x"}],
        "loads": [1.0, 2.0],
        "duration_seconds": 3,
        "arrivals": {"process": "gamma", "burstiness": 2, "profile": [{"seconds": 0, "share": 1}]},
        "workloads": [{"name": "w", "source": "synthetic"}],
        "slo": {"ttft_ms": 5},
    },
    TrainConfig: yaml.safe_load(Path("training/configs/demo-dpace.yaml").read_text()),
    StudyConfig: yaml.safe_load(Path("training/configs/studies/reproduce.yaml").read_text()),
}
# Some checks import a framework when they first run, which is no second of theirs.
VALID = {schema: build_config(schema, values, source="") for schema, values in DOCUMENTS.items()}
SCHEMAS = pytest.mark.parametrize("schema", DOCUMENTS, ids=lambda schema: schema.__name__)
_TOKENS = (
    "target", "drafter", "limits", "a", "1", "0x1F", "0b", "1:2:3", "1e999", ".nan", "~", "=", "#",
    "2024-9-99", ": ", "\n", "\n  ", "- ", ", ", "[", "]", "{", "}", "? ", "&a ", "*a", "<<: ",
    "| ", "> ", "! ", "!!int ", "!!timestamp ", "!!bool ", "!!binary ", "!!set ", "!!omap ", "'",
    '"', "!!python/name:os.system ", "%YAML 9.9\n", "---\n", "...\n", "\t", "\ufeff", "\0",
    '"\\ud800"', '"\\0"',
)  # fmt: skip
TOKENS = st.sampled_from(_TOKENS)


def read(folder, schema, raw, overrides=()):
    path = folder / "settings.yaml"
    path.write_bytes(raw)
    return outcome(lambda: load_config(schema, path, overrides), hides_secret=True)


def reread(folder, schema, found):
    """What comes back of a valid configuration that is written down."""
    text = yaml.safe_dump(found.model_dump(mode="json"), allow_unicode=False)
    (folder / "again.yaml").write_text(text)
    return load_config(schema, folder / "again.yaml", [])


@st.composite
def yaml_files(draw, document):
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return "".join(draw(st.lists(TOKENS, max_size=25))).encode()
    changed = draw(mutated(document))
    if kind == 1:  # JSON is YAML, but for details
        return draw(damaged(json.dumps(changed).encode()))
    return draw(damaged(yaml.dump(changed).encode("utf-8", "surrogatepass")))


@SCHEMAS
def test_the_document_that_is_damaged_here_is_valid_itself(tmp_path, schema):
    assert reread(tmp_path, schema, VALID[schema]) == VALID[schema]


@SCHEMAS
@FUZZ
@given(data=st.data())
def test_any_file_is_a_configuration_or_one_line(tmp_path, schema, data):
    found = read(tmp_path, schema, data.draw(yaml_files(DOCUMENTS[schema])))
    if found is not None:
        assert reread(tmp_path, schema, found) == found


@FUZZ
@given(
    overrides=st.lists(
        st.lists(TOKENS | st.sampled_from("=.") | st.text(max_size=4), max_size=9).map("".join),
        max_size=3,
    )
)
def test_any_overrides_are_applied_or_refused_in_one_line(tmp_path, overrides):
    read(tmp_path, ServeConfig, yaml.safe_dump(SERVE).encode(), overrides)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 8)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGES = "a: &a {k0: 1, k1: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 8)}]}}\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (LAUGHS, "more than 20000 values, repeated ones included"),
        (MERGES, "more than 20000 values, repeated ones included"),
        ("a: &a [*a]\n", "*a stands inside itself"),
        ("a: &a {<<: *a}\n", "*a stands inside itself"),
        ("a: " + "[" * 2000, "more than 64 lists and groups inside each other"),
        ("a: " + "{a: " * 2000, "more than 64 lists and groups inside each other"),
        ("a: !!timestamp x\n", "the tag tag:yaml.org,2002:timestamp is not read"),
        ("a: !!bool x\n", "the tag tag:yaml.org,2002:bool is not read"),
        ("a: !!int ''\n", "the tag tag:yaml.org,2002:int is not read"),
        ("port: 0x" + "f" * 5000, "a number of 5002 digits"),
        ("target: " + "x" * 200_000, "larger than 100,000 bytes"),
        ('target: t\ndrafter: "a\\0b"\n', "a path must be printable characters"),
        ('target: t\nverdict: {step_times: {a: "b\\n"}}\n', "a path must be printable characters"),
    ],
)
def test_what_cost_more_than_a_line_once(tmp_path, content, fragment):
    path = tmp_path / "settings.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        outcome(lambda: load_config(ServeConfig, path, []), refusals=())
    assert fragment in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_key_of_thousands_of_groups_is_refused():
    with pytest.raises(ConfigError, match="a key has at most 64 groups around it, got 5000"):
        load_config(ServeConfig, None, ["a." * 5000 + "a=1"])


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "settings.yaml")
    with pytest.raises(ConfigError, match="it is no file"):
        load_config(ServeConfig, tmp_path / "settings.yaml", [])


@pytest.mark.parametrize(
    "override",
    [
        "draw_salt=too-short",
        "draw_salt=[too-short]",
        "draw_salt: too-short",
        "draw_salt=[too-short",
    ],
)
def test_a_salt_is_not_quoted_when_it_is_wrong(override):
    with pytest.raises(ConfigError) as caught:
        load_config(ServeConfig, None, ["target=t", override])
    assert "too-short" not in str(caught.value)


def test_a_salt_is_not_quoted_when_something_else_is_wrong():
    with pytest.raises(ConfigError, match="challengers need a drafter") as caught:
        load_config(ServeConfig, None, [f"draw_salt={SECRET}", "target=t", "challengers=[a]"])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "content", [f"me:{SECRET}@host: 1\n", f"'me:{SECRET}@h': 1\n'me:{SECRET}@h': 1\n"]
)
def test_a_credential_that_became_a_key_is_not_quoted(tmp_path, content):
    path = tmp_path / "settings.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_config(ServeConfig, path, [])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("recipe", ["[dpace]", "{dpace: 1}", "[[]]"])
def test_a_recipe_that_is_no_name_is_refused_by_its_own_check(recipe):
    valid = Path("training/configs/demo-dpace.yaml")
    with pytest.raises(ConfigError, match=r"loss\.recipe: Input should be"):
        load_config(TrainConfig, valid, [f"loss.recipe={recipe}"])
