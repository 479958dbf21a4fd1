from collections import Counter

import pytest

from dpace_loadtest.conversation import Conversation
from dpace_loadtest.mix import Mix
from dpace_loadtest.plan import Cell, Place, cells, open_schedule, worker_share
from dpace_loadtest.scenario import ScenarioConfig
from dpace_loadtest.workload import WorkloadConfig
from dpace_serve.config import build_config
from dpace_serve.errors import ConfigError


def scenario(**values):
    return build_config(ScenarioConfig, {"duration_seconds": 4, **values}, source="test")


def conversation(workload, key):
    return Conversation(workload, key, True, (), ("?",), 8, 0.0)


def test_arms_take_turns_within_a_load_and_every_second_round_reverses_them():
    planned = cells(scenario(arms=[{"name": "a"}, {"name": "b"}], loads=[1, 2], rounds=3))
    turns = [(cell.round, cell.load, cell.arm.name) for cell in planned]
    assert turns == [
        (0, 1, "a"), (0, 1, "b"), (0, 2, "a"), (0, 2, "b"),
        (1, 1, "b"), (1, 1, "a"), (1, 2, "b"), (1, 2, "a"),
        (2, 1, "a"), (2, 1, "b"), (2, 2, "a"), (2, 2, "b"),
    ]  # fmt: skip


def test_arms_of_one_load_and_round_share_their_seed_and_no_others_do():
    planned = cells(scenario(arms=[{"name": "a"}, {"name": "b"}], loads=[1, 2], rounds=2))
    assert set(Counter(cell.seed for cell in planned).values()) == {2}
    for cell in planned:
        partners = [one for one in planned if one.seed == cell.seed]
        assert {(one.load, one.round) for one in partners} == {(cell.load, cell.round)}


def test_a_duration_counts_from_the_end_of_the_warm_up():
    given = scenario(arrivals={"process": "constant"}, warm_up_seconds=1.5, duration_seconds=1)
    schedule = open_schedule(given, Cell(given.arms[0], 2.0, 0, "s"), ())
    assert [(one.number, one.seconds, one.phase) for one in schedule] == [
        (0, 0.0, "warm_up"), (1, 0.5, "warm_up"), (2, 1.0, "warm_up"),
        (3, 1.5, "measured"), (4, 2.0, "measured"),
    ]  # fmt: skip


def test_a_number_of_requests_counts_the_measured_ones():
    given = scenario(
        arrivals={"process": "constant"},
        warm_up_seconds=1,
        duration_seconds=None,
        num_requests=3,
    )
    phases = [one.phase for one in open_schedule(given, Cell(given.arms[0], 2.0, 0, "s"), ())]
    assert phases == ["warm_up"] * 2 + ["measured"] * 3


def test_workers_share_one_schedule_however_many_they_are():
    given = scenario(duration_seconds=100)
    whole = open_schedule(given, Cell(given.arms[0], 5.0, 0, "s"), ())
    assert len(whole) > 400
    for num_workers in (1, 2, 3, 7):
        parts = [worker_share(whole, Place(one, num_workers)) for one in range(num_workers)]
        assert sorted(one.number for part in parts for one in part) == list(range(len(whole)))


def test_a_trace_that_ends_too_early_is_refused(tmp_path):
    path = tmp_path / "trace"
    path.write_text("0\n1\n2\n3\n")
    given = scenario(arrivals={"trace": str(path)}, warm_up_seconds=0, duration_seconds=2.5)
    recorded = (0.0, 1.0, 2.0, 3.0)
    at_one = open_schedule(given, Cell(given.arms[0], 1.0, 0, "s"), recorded)
    assert [one.seconds for one in at_one] == [0.0, 1.0, 2.0]
    with pytest.raises(ConfigError, match="at 2 requests/s it ends before the load does"):
        open_schedule(given, Cell(given.arms[0], 2.0, 0, "s"), recorded)


def test_workloads_are_drawn_by_their_shares():
    workloads = (WorkloadConfig(name="a", share=3), WorkloadConfig(name="b", share=1))
    known = {name: [conversation(name, f"{name}{n}") for n in range(10)] for name in "ab"}
    mix = Mix(workloads, known, seed="s")
    drawn = Counter(mix.conversation(number).workload for number in range(4000))
    # Standard deviation of the count: sqrt(4000 * 3/4 * 1/4) = 27.
    assert drawn["a"] == pytest.approx(3000, abs=5 * 27)


def test_every_prompt_is_asked_once_before_any_is_asked_again():
    known = {"a": [conversation("a", str(number)) for number in range(10)]}
    mix = Mix((WorkloadConfig(name="a"),), known, seed="s")
    keys = [mix.conversation(number).key for number in range(30)]
    passes = [keys[:10], keys[10:20], keys[20:]]
    assert all(sorted(one) == sorted(map(str, range(10))) for one in passes)
    assert passes[0] != passes[1]


def test_a_number_means_the_same_whatever_else_is_asked():
    workloads = (WorkloadConfig(name="a"), WorkloadConfig(name="b", share=2))
    known = {name: [conversation(name, f"{name}{n}") for n in range(7)] for name in "ab"}
    whole = Mix(workloads, known, seed="s")
    every = [whole.conversation(number).key for number in range(60)]
    third = Mix(workloads, known, seed="s")
    assert [third.conversation(number).key for number in range(2, 60, 3)] == every[2::3]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"num_requests": 3}, "exactly one of duration_seconds and num_requests"),
        ({"duration_seconds": None}, "exactly one of duration_seconds and num_requests"),
        ({"arms": [{"name": "a"}, {"name": "a"}]}, "arms must differ"),
        ({"loads": [1, 1.0]}, "loads must differ"),
        ({"baseline": "b"}, "baseline must be one of the arms"),
        ({"mode": "closed", "loads": [1.5]}, "must be whole numbers"),
        ({"mode": "closed", "arrivals": {"process": "constant"}}, "arrivals are for mode open"),
        ({"arms": [{"name": "a", "drafter": "x"}], "tag_requests": False}, "keep tag_requests"),
        ({"url": "http://user:pw@host"}, "pattern"),
        ({"workloads": [{"name": "w", "sessions": True}]}, "sessions need conversations"),
        ({"workloads": [{"name": "w", "source": "file"}]}, "belong together"),
        ({"workloads": [{"name": "w", "min_words": 65}]}, "must not exceed max_words"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values, complaint):
    with pytest.raises(ConfigError, match=complaint):
        scenario(**values)
