"""Schedules, prompts and what requests say of themselves, as nobody meant them."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpace_serve.demo.prompts import read_prompts as read_demo_prompts
from dpace_serve.errors import ConfigError
from dpace_serve.tuning.prompts import read_prompts as read_tuning_prompts
from dpace_serve.vllm_engine.block_schedule import read_schedule, write_schedule
from dpace_serve.vllm_engine.calibration import read_times
from dpace_serve.vllm_engine.row_binding import binding_of
from tests.fuzzing import FUZZ, VALUES, json_files, json_lines, outcome

POINTS = [
    {"batch_size": size, "num_draft_tokens": length, "step_ms": 20.0, "tau": 1.5,
     "tokens_per_second": 75.0}
    for size in (1, 2) for length in (0, 7)
]  # fmt: skip
SCHEDULE = {
    "format": 1,
    "target": "target",
    "drafter": "dpace",
    "revision": "0123456789ab",
    "num_draft_tokens": 7,
    "machine": {"device": "cpu", "cpu": "a CPU", "num_cores": 2, "engine": "vllm 0.32.0"},
    "schedule": [[1, 2, 7], [3, 8, 3], [9, 16, 0]],
    "measured": POINTS,
}
LIBRARY = {"library_file": "json/decoder.py", "first_line": 1, "num_lines": 3}
PROMPTS = [{"messages": [{"role": "user", "content": "q"}]}, {"prompt": "p"}, LIBRARY]


def file_of(folder, raw):
    path = folder / "made.json"
    path.write_bytes(raw)
    return path


@FUZZ
@given(raw=json_files(SCHEDULE))
def test_any_schedule_comes_back_as_it_was_read_or_is_refused(tmp_path, raw):
    path = file_of(tmp_path, raw)
    schedule = outcome(lambda: read_schedule(path))
    times = outcome(lambda: read_times(path))
    if times is not None:
        assert all(second > 0 for seconds in times.seconds for second in seconds)
    if schedule is not None:
        write_schedule(path, schedule)
        assert read_schedule(path) == schedule


def test_the_schedule_that_is_damaged_here_is_one(tmp_path):
    path = file_of(tmp_path, json.dumps(SCHEDULE).encode())
    assert [read_schedule(path).length_at(size) for size in (1, 2, 3, 16, 99)] == [7, 7, 3, 0, 0]
    assert read_times(path).lengths == (0, 7)


@FUZZ
@given(raw=json_lines(PROMPTS))
def test_any_prompts_are_read_or_refused(tmp_path, raw):
    path = file_of(tmp_path, raw)
    assert outcome(lambda: read_tuning_prompts(path)) != []


@FUZZ
@given(raw=json_lines([{**prompt, "workload": "w"} for prompt in PROMPTS]))
def test_any_prompts_of_the_demo_are_read_or_refused(tmp_path, raw):
    path = file_of(tmp_path, raw)
    assert outcome(lambda: read_demo_prompts(path)) != []


@pytest.mark.parametrize(
    "file", ["../../../../../../../etc/passwd", "/etc/passwd", "json/../os.py", "os.pyc", "os.py\0"]
)
@pytest.mark.parametrize("read", [read_tuning_prompts, read_demo_prompts])
def test_a_prompt_cannot_send_any_file_of_this_machine(tmp_path, read, file):
    line = {**LIBRARY, "workload": "w", "library_file": file}
    with pytest.raises(ConfigError, match="library_file: String should match pattern"):
        read(file_of(tmp_path, json.dumps(line).encode()))


@FUZZ
@given(values=VALUES | st.lists(st.integers(-3, 5) | VALUES, max_size=6))
def test_whatever_a_request_carries_it_is_bound_to_slots_that_exist(values):
    binding = outcome(lambda: binding_of({"dpace": values}, num_slots=3))
    assert 0 <= binding.serving < 3
    assert all(0 <= slot < 3 and slot != binding.serving for slot in binding.shadows)


@FUZZ
@given(
    tags=st.dictionaries(
        st.sampled_from(["dpace_workload", "dpace_drafter", "dpace", "x"]), VALUES, max_size=3
    ),
    name=st.text(max_size=300),
)
def test_whatever_a_request_says_it_has_a_known_label_or_a_clear_refusal(make_bench, tags, name):
    arrivals = make_bench(num_challengers=1).recorder._arrivals
    params = SimpleNamespace(n=1, extra_args=tags, structured_outputs=None, logprob_token_ids=None)
    request = outcome(lambda: arrivals.bind("p", params, name), refusals=ValueError)
    if request is not None:
        assert request.workload in {*arrivals._workloads, "other"}
        assert len(request.request_id) <= 128
        arrivals.leave(request)
