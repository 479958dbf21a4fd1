"""Which step times a server starts with, and which files it refuses."""

import itertools
import json
import logging

import pytest

from dpace_serve.acceptance.step_times import StepTimes
from dpace_serve.demo import bundle
from dpace_serve.drafter import checkpoint
from dpace_serve.errors import ConfigError
from dpace_serve.serve_config import ServeConfig
from dpace_serve.vllm_engine.calibration import read_step_times, require_fitting_step_times

DRAFTER = bundle.drafter_folder("dpace")
REVISION = checkpoint.revision(DRAFTER)


def point(num_draft_tokens, batch_size):
    return {
        "batch_size": batch_size,
        "num_draft_tokens": num_draft_tokens,
        "step_ms": 10.0 + num_draft_tokens + 2 * batch_size,
        "tau": 1.0 + num_draft_tokens / 4,
        "tokens_per_second": 100.0,
    }


GRID = [point(length, size) for length, size in itertools.product((0, 1, 7), (1, 4))]
EXPECTED = StepTimes((0, 1, 7), (1, 4), ((0.012, 0.013, 0.019), (0.018, 0.019, 0.025)))


@pytest.fixture
def written(tmp_path):
    def write(name="times.json", *, measured=GRID, revision=REVISION):
        path = tmp_path / name
        values = {
            "format": 1,
            "target": "target",
            "drafter": "dpace",
            "revision": revision,
            "num_draft_tokens": 7,
            "machine": {"device": "cpu", "cpu": "a CPU", "num_cores": 2, "engine": "vllm 0.32.0"},
            "schedule": [[1, 4, 7]],
            "measured": measured,
        }
        path.write_text(json.dumps(values))
        return path

    return write


def serving(**files):
    return ServeConfig(target="t", drafter=DRAFTER, **files)


def test_a_server_of_fixed_length_reads_its_times_from_step_times(written):
    assert read_step_times(serving(step_times=written())) == EXPECTED


def test_a_block_schedule_brings_its_own_times(written):
    assert read_step_times(serving(block_schedule=written())) == EXPECTED


def test_step_times_go_before_those_of_the_schedule(written):
    schedule = written("schedule.json", measured=[point(0, 1)])
    found = read_step_times(serving(block_schedule=schedule, step_times=written()))
    assert found == EXPECTED


def test_without_a_file_nothing_is_calibrated():
    assert read_step_times(serving()) is None


@pytest.mark.parametrize(
    ("measured", "named"),
    [
        ([], "the lengths none"),
        (GRID[1:], "5 times of 3 lengths at 2 batch sizes"),
        ([one for one in GRID if one["num_draft_tokens"]], "the lengths 1, 7"),
    ],
)
def test_step_times_without_usable_times_are_one_line_that_names_the_file(written, measured, named):
    path = written(measured=measured)
    with pytest.raises(ConfigError, match=named) as refused:
        require_fitting_step_times(serving(step_times=path))
    assert str(refused.value).startswith(str(path))
    assert "dpace tune" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        require_fitting_step_times(serving(step_times=tmp_path / "none.json"))


def test_a_schedule_without_usable_times_is_served_and_says_so(written, caplog):
    config = serving(block_schedule=written(measured=[]))
    with caplog.at_level(logging.WARNING):
        require_fitting_step_times(config)
    assert read_step_times(config) is None
    assert "no speed-up is estimated" in caplog.text


def test_times_of_another_revision_are_used_and_say_so(written, caplog):
    config = serving(step_times=written(revision="an-older-one"))
    with caplog.at_level(logging.WARNING):
        require_fitting_step_times(config)
    assert read_step_times(config) == EXPECTED
    assert f"an-older-one of dpace, the drafter is revision {REVISION}" in caplog.text


def test_times_of_the_same_revision_say_nothing(written, caplog):
    with caplog.at_level(logging.WARNING):
        require_fitting_step_times(serving(step_times=written()))
    assert caplog.text == ""


def test_step_times_need_a_drafter(written):
    with pytest.raises(ValueError, match="step_times needs a drafter"):
        ServeConfig(target="t", step_times=written())
