"""A small version of the measurement of position specialists: adapters cost next to nothing."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.bench]


@pytest.mark.timeout(900)
def test_adapters_take_at_most_a_twentieth_of_the_time_of_a_drafter_of_a_public_size(tmp_path):
    result = tmp_path / "cost.json"
    subprocess.run(
        [
            *(sys.executable, "-m", "dpace_training.bench.specialist_cost"),
            *("--size", "4b", "--compiled", "--rounds", "3", "--json", str(result)),
        ],
        check=True,
    )
    measured = json.loads(result.read_text())
    plain, low_rank = measured["plain"], measured["low_rank"]
    # Eight groups of two of the fifteen draft positions, each with 16 in and out.
    assert low_rank["parameters"] - plain["parameters"] == 8 * 2 * 16 * 2560
    assert low_rank["megabytes"] < 1.01 * plain["megabytes"] < measured["last_layer"]["megabytes"]
    for row in measured["forwards"]:
        assert row["arms"]["low_rank"]["ratio"]["median"] <= 1.05, row
