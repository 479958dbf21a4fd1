"""What a schedule may say, and what it may be served with."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from dpace_serve.demo import bundle
from dpace_serve.drafter import checkpoint
from dpace_serve.errors import ConfigError
from dpace_serve.serve_config import ServeConfig
from dpace_serve.vllm_engine import server
from dpace_serve.vllm_engine.block_schedule import (
    BlockSchedule,
    read_schedule,
    require_fitting_schedule,
    use_schedule,
    write_schedule,
)

DRAFTER = bundle.drafter_folder("dpace")


def values(**changed):
    point = {
        "batch_size": 1, "num_draft_tokens": 7, "step_ms": 20.0, "tau": 2.5,
        "tokens_per_second": 125.0,
    }  # fmt: skip
    return {
        "format": 1,
        "target": "target",
        "drafter": "dpace",
        "revision": checkpoint.revision(DRAFTER),
        "num_draft_tokens": 7,
        "machine": {"device": "cpu", "cpu": "a CPU", "num_cores": 2, "engine": "vllm 0.32.0"},
        "schedule": [[1, 2, 7], [3, 8, 3], [9, 16, 0]],
        "measured": [point],
        **changed,
    }


@pytest.fixture
def written(tmp_path):
    def write(**changed):
        path = tmp_path / "schedule.json"
        path.write_text(json.dumps(values(**changed)))
        return path

    return write


@pytest.fixture
def serving(written):
    def make(drafter: Path | None = DRAFTER, num_draft_tokens=None, **changed):
        return ServeConfig(
            target="t",
            drafter=drafter,
            num_draft_tokens=num_draft_tokens,
            block_schedule=written(**changed),
        )

    return make


def test_a_schedule_is_read_as_it_was_written(tmp_path, written):
    schedule = read_schedule(written())
    assert schedule.schedule == ((1, 2, 7), (3, 8, 3), (9, 16, 0))
    copy = tmp_path / "copy.json"
    write_schedule(copy, schedule)
    assert read_schedule(copy) == schedule
    assert list(tmp_path.glob("*.tmp")) == []


@pytest.mark.parametrize(
    ("batch_size", "expected"), [(1, 7), (2, 7), (3, 3), (8, 3), (9, 0), (16, 0), (99, 0)]
)
def test_batch_sizes_past_the_last_range_draft_as_it_does(batch_size, expected):
    assert BlockSchedule.model_validate(values()).length_at(batch_size) == expected


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"format": 2}, "format"),
        ({"shedule": []}, "unknown key shedule"),
        ({"schedule": []}, "schedule"),
        ({"schedule": [[2, 4, 3]]}, "must start at batch size 1"),
        ({"schedule": [[1, 4, 3], [4, 8, 2]]}, "must start at batch size 5"),
        ({"schedule": [[1, 4, 3], [6, 8, 2]]}, "must start at batch size 5"),
        ({"schedule": [[1, 0, 3]]}, "must start at batch size 1"),
        ({"schedule": [[1, 4, 8]]}, "0..7"),
        ({"schedule": [[1, 4, -1]]}, "0..7"),
        ({"schedule": [[1, 4]]}, "schedule"),
        ({"revision": None}, "revision"),
        ({"machine": {}}, "machine"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(written, changed, named):
    path = written(**changed)
    with pytest.raises(ConfigError, match=named) as refused:
        read_schedule(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00"])
def test_what_is_no_object_is_refused(tmp_path, text):
    path = tmp_path / "schedule.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="must hold a JSON object"):
        read_schedule(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_schedule(tmp_path / "none.json")


def test_a_schedule_of_this_drafter_is_served(serving):
    require_fitting_schedule(serving())
    require_fitting_schedule(serving(num_draft_tokens=7))


def test_a_schedule_of_another_drafter_is_refused(serving):
    other = checkpoint.revision(bundle.drafter_folder("dflash"))
    with pytest.raises(ConfigError, match=f"made for revision {other}"):
        require_fitting_schedule(serving(revision=other))


def test_a_schedule_that_drafts_more_than_is_served_is_refused(serving):
    with pytest.raises(ConfigError, match="drafts up to 7 tokens, num_draft_tokens is 5"):
        require_fitting_schedule(serving(num_draft_tokens=5))
    require_fitting_schedule(serving(num_draft_tokens=5, schedule=[[1, 4, 5], [5, 8, 0]]))


def test_a_schedule_without_a_drafter_is_refused(serving):
    with pytest.raises(ConfigError, match="needs a drafter"):
        require_fitting_schedule(serving(drafter=None))


def test_the_server_refuses_a_schedule_before_it_looks_at_models(serving):
    with pytest.raises(ConfigError, match="made for revision"):
        server.prepared_arguments(serving(revision="another"))


def test_the_engine_gets_the_table_beside_its_drafter(serving):
    args = Namespace(speculative_config={"method": "dflash"}, data_parallel_size=1)
    use_schedule(serving(), args)
    assert args.speculative_config == {
        "method": "dflash",
        "num_speculative_tokens_per_batch_size": [[1, 2, 7], [3, 8, 3], [9, 16, 0]],
    }


def test_without_a_schedule_the_arguments_stay_as_they_are():
    args = Namespace(speculative_config=None, data_parallel_size=2)
    use_schedule(ServeConfig(target="t"), args)
    assert args == Namespace(speculative_config=None, data_parallel_size=2)


def test_several_replicas_are_refused_because_the_engine_would_drop_the_table(serving):
    args = Namespace(speculative_config={}, data_parallel_size=2)
    with pytest.raises(ConfigError, match="data-parallel-size 1, got 2"):
        use_schedule(serving(), args)
