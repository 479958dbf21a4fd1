import json
import sys
from pathlib import Path

import pytest

from dpace_serve.errors import ConfigError
from dpace_training.bench.peers.compare import WARM_UP_STEPS, compare
from dpace_training.bench.peers.process import SideStoppedError, StepProcess, _reason

SCRIPT = Path(__file__).with_name("scripted_side.py")


def side(**script):
    return [sys.executable, str(SCRIPT), json.dumps(script)]


def run(own, peers, *, rounds=3):
    return compare(own, peers, rounds=rounds, advance=lambda: None)


def test_a_process_answers_every_line_with_the_next_step():
    with StepProcess(side(slower=2)) as process:
        assert (process.versions, process.num_parameters) == ({"side": "1"}, 7)
        assert [process.take_step().seconds for _ in range(3)] == [2, 4, 6]


def test_the_ratio_is_taken_round_by_round_and_warm_up_is_not_counted():
    result = run(side(), {"slow": side(slower=3)})
    # Our seconds are 3, 4, 5 behind two steps of warm-up. Only ratios by round are all alike.
    assert WARM_UP_STEPS == 2
    assert result["own"]["seconds"]["median"] == 4
    assert result["peers"]["slow"]["seconds"]["median"] == 12
    assert result["peers"]["slow"]["ratio"] == {"median": 3, "low": 3, "high": 3}
    assert result["own"]["processor_seconds"]["median"] == 2
    assert result["peers"]["slow"]["processor_ratio"]["median"] == 9


def test_rounds_advance_once_each():
    seen = []
    compare(side(), {}, rounds=4, advance=lambda: seen.append(None))
    assert len(seen) == WARM_UP_STEPS + 4


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ({"stops_at_start": "no such kernel"}, "RuntimeError: no such kernel (File"),
        ({"stops_at_step": 3}, "NotImplementedError: no backward here (File"),
        ({"exits_silently": True}, "ended with status 3"),
    ],
)
def test_a_peer_that_stops_is_reported_and_the_others_go_on(script, reason):
    result = run(side(), {"stopping": side(**script), "other": side(slower=2)})
    assert set(result["peers"]["stopping"]) == {"stopped_by"}
    assert result["peers"]["stopping"]["stopped_by"].startswith(reason)
    assert result["peers"]["other"]["ratio"]["median"] == 2


def test_the_reason_names_the_line_that_raised():
    with (
        pytest.raises(SideStoppedError, match=r'File ".*scripted_side.py", line \d+, in main'),
        StepProcess(side(stops_at_start="no such kernel")),
    ):
        pass


def test_nothing_is_compared_when_our_own_side_stops():
    with pytest.raises(SideStoppedError, match="no backward here"):
        run(side(stops_at_step=1), {"other": side()})


def test_a_peer_with_another_number_of_weights_is_refused():
    with pytest.raises(ConfigError, match="trains 8 weights, this project 7"):
        run(side(), {"larger": side(num_parameters=8)})


def test_a_peer_that_supervises_fewer_positions_is_refused():
    run(side(), {"nearly as many": side(num_supervised=98.0)})
    with pytest.raises(ConfigError, match="supervises 90 positions in a step, this project 100"):
        run(side(), {"fewer": side(num_supervised=90.0)})


def test_a_file_of_an_installed_package_is_named_without_the_folder_it_is_installed_in():
    place = 'File "/home/somebody/env/lib/python3.11/site-packages/torch/nn/flex.py", line 3, in f'
    trace = f"Traceback (most recent call last):\n  {place}\n    g()\nValueError: no"
    assert _reason(trace, 1) == 'ValueError: no (File "torch/nn/flex.py", line 3, in f)'
