from importlib.util import find_spec

import pytest

from dpace_loadtest.reported_run import _servers, run_facts
from dpace_loadtest.run_record import CellRecord, RunRecord
from dpace_loadtest.scenario import ScenarioConfig
from dpace_serve.config import build_config

pytestmark = pytest.mark.skipif(find_spec("locust") is None, reason="locust is not installed")


def cell(arm, load, number, cpu):
    return CellRecord(arm, load, number, 0.0, 9.0, 10, 0, 1.0, cpu)


def test_the_report_is_told_what_was_run_in_its_own_units():
    scenario = build_config(
        ScenarioConfig,
        {
            "url": "http://user.example:8000/base/",
            "arms": [{"name": "a"}, {"name": "b", "url": "http://b.example", "drafter": "d"}],
            "baseline": "b",
            "rounds": 2,
            "mode": "closed",
            "loads": [2, 4],
            "num_requests": 5,
            "seed": 3,
            "slo": {"ttft_ms": 250, "min_goodput_share": 0.9},
            "max_send_lag_ms": 40,
        },
        source="test",
    )
    cells = (cell("a", 2, 0, 0.2), cell("a", 2, 1, 0.7), cell("b", 2, 0, 0.1), cell("a", 4, 0, 0.3))
    facts = run_facts(scenario, "named", RunRecord("run", 86_400.0, 1, "hash", cells))
    assert [(arm.name, arm.url, arm.drafter) for arm in facts.arms] == [
        ("a", "http://user.example:8000/base", None),
        ("b", "http://b.example", "d"),
    ]
    assert (facts.name, facts.mode, facts.baseline, facts.loads) == ("named", "closed", "b", (2, 4))
    assert (facts.slo.ttft_seconds, facts.slo.tpot_seconds) == (0.25, None)
    assert facts.slo.min_goodput_share == 0.9
    assert facts.saturation_seconds == 0.04
    assert (facts.seed, facts.prompt_hash) == (3, "hash")
    assert facts.started_at == "1970-01-02T00:00:00+00:00"
    assert facts.generator_cpu == {("a", 2): 0.7, ("b", 2): 0.1, ("a", 4): 0.3}
    assert set(facts.versions) == {"dpace_serve", "locust"}


def test_arms_of_one_server_share_its_key_and_where_its_records_are(tmp_path):
    key = tmp_path / "key"
    key.write_text("k")
    arms = [
        {"name": "a", "api_key_file": str(key), "observation_url": "http://127.0.0.1:8001"},
        {"name": "b", "drafter": "d"},
        {"name": "c", "url": "http://c.example"},
    ]
    values = {"arms": arms, "baseline": "a", "num_requests": 1}
    scenario = build_config(ScenarioConfig, values, source="test")
    assert _servers(scenario) == {
        "http://127.0.0.1:8000": ("k", "http://127.0.0.1:8001"),
        "http://c.example": (None, None),
    }
