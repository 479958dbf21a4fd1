"""The speed measurement against servers of known speed."""

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from dpace_serve.demo.plan import DemoModels
from dpace_serve.demo.speed import SpeedRow, SpeedSettings, measure_speed, speed_report
from dpace_serve.demo.speed_table import speed_table

FAKE_SERVER = Path(__file__).parent / "fake_server.py"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speed")
    prompts = folder / "prompts.jsonl"
    lines = [{"workload": "code", "prompt": "import "}, {"workload": "json", "prompt": "{"}]
    prompts.write_text("\n".join(json.dumps(line) for line in lines))
    models = DemoModels(
        target=folder / "target",
        drafters={"dflash": folder / "dflash", "dpace": folder / "dpace"},
        prompts=prompts,
    )
    return measure_speed(
        models,
        SpeedSettings(rounds=2, batch_sizes=(1, 2), stop_timeout_seconds=5),
        command=lambda config: [
            sys.executable,
            str(FAKE_SERVER),
            str(config.port),
            config.drafter_name or "none",
            "paced",
        ],
        progress_console=Console(file=io.StringIO()),
    )


def test_every_mode_batch_size_and_arm_has_a_row(rows):
    assert [(row.mode, row.batch_size, row.arm) for row in rows] == [
        (mode, batch_size, arm)
        for mode in ("eager", "compiled")
        for batch_size in (1, 2)
        for arm in ("none", "dflash", "dpace")
    ]


def test_speed_ups_are_those_of_the_servers(rows):
    # 13 tokens in 0.6, 0.4 and 0.2 seconds.
    expected = {"none": 1.0, "dflash": 1.5, "dpace": 3.0}
    for row in rows:
        assert row.speedup == pytest.approx(expected[row.arm], rel=0.25)
        assert row.speedup_low <= row.speedup <= row.speedup_high


def test_requests_in_flight_together_share_the_time(rows):
    speed = {(row.mode, row.batch_size): row.tokens_per_second for row in rows if row.arm == "none"}
    assert speed["eager", 1] == pytest.approx(13 / 0.6, rel=0.25)
    assert speed["eager", 2] == pytest.approx(2 * 13 / 0.6, rel=0.25)


def test_tau_comes_from_the_servers_records(rows):
    assert {row.arm: row.tau for row in rows} == {"none": None, "dflash": 2.0, "dpace": 3.0}


def test_the_report_and_the_table_hold_every_row(rows):
    report = json.loads(json.dumps(speed_report(rows)))
    assert len(report["rows"]) == len(rows)
    assert report["machine"]["num_cores"] >= 1
    out = io.StringIO()
    Console(file=out, width=80).print(speed_table(rows))
    assert max(len(line) for line in out.getvalue().splitlines()) <= 80
    assert out.getvalue().count("dpace") == 4


def test_what_is_left_of_tau_is_the_quotient():
    row = SpeedRow("eager", 1, "dpace", 300.0, 1.8, 1.7, 1.9, 3.0)
    assert row.speedup_over_tau == pytest.approx(0.6)
