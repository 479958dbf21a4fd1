"""The shipped Prometheus rules: valid, over names and labels that exist, each with its own test."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PROMETHEUS = Path(__file__).parents[3] / "deploy" / "prometheus"
TEST_FILES = sorted((PROMETHEUS / "tests").glob("*.yml"))
SCRAPE_INTERVAL_SECONDS = 15
UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@pytest.fixture(scope="module")
def promtool():
    """Run promtool here; skips where there is none."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")

    def run(*arguments: object) -> None:
        done = subprocess.run(
            ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def tested() -> list[dict]:
    return [
        test
        for file in TEST_FILES
        for test in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]
    ]


def test_the_configuration_is_valid(promtool):
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_the_rules_are_valid(promtool):
    promtool("check", "rules", *(PROMETHEUS / "rules").glob("*.yml"))


@pytest.mark.parametrize("file", TEST_FILES, ids=lambda file: file.stem)
def test_the_rules_give_what_was_worked_out_by_hand(promtool, file):
    promtool("test", "rules", file)


def test_every_recording_rule_is_compared_with_numbers(rules, tested):
    with_numbers = " ".join(
        check["expr"]
        for test in tested
        for check in test.get("promql_expr_test", [])
        if check.get("exp_samples")
    )
    recorded = {rule["record"] for rule in (*rules["recording"], *rules["break_even"])}
    assert recorded
    assert recorded - set(re.findall(r"dpace:\w+:\w+", with_numbers)) == set()


def test_every_alert_is_seen_to_fire_and_to_be_silent(rules, tested):
    checks = [check for test in tested for check in test.get("alert_rule_test", [])]
    alerts = {rule["alert"] for rule in rules["alerts"]}
    assert {check["alertname"] for check in checks if check.get("exp_alerts")} == alerts
    assert {check["alertname"] for check in checks if not check.get("exp_alerts")} == alerts


def test_every_rule_uses_names_and_labels_that_exist(rules, labels_of):
    for rule in (rule for file in rules.values() for rule in file):
        labels_of(rule["expr"])


def test_every_label_in_the_words_of_an_alert_is_there(rules, labels_of):
    for rule in rules["alerts"]:
        words = " ".join(rule["annotations"].values())
        used = set(re.findall(r"\$labels\.(\w+)", words))
        assert used <= labels_of(rule["expr"]) | set(rule["labels"]), rule["alert"]


def test_every_alert_says_what_it_means_and_how_bad_it_is(rules):
    for rule in rules["alerts"]:
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in {"warning", "critical"}


@pytest.mark.parametrize(
    "expression",
    [
        "dpace_drafted",                                                    # no such name
        "dpace_export_errors_total{position='1'}",                          # no such label
        "sum by (workload) (dpace_export_errors_total)",
        "dpace_drafted_tokens_total / dpace_acceptance_steps_total",        # position on one side
        "dpace_drafted_tokens_total and on (position) dpace_split_share",
    ],
)  # fmt: skip
def test_a_name_or_label_that_does_not_exist_is_found(labels_of, expression):
    with pytest.raises(ValueError, match=r"."):
        labels_of(expression)


def test_a_range_holds_four_scrapes_or_more(rules):
    file = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    assert file["global"]["scrape_interval"] == f"{SCRAPE_INTERVAL_SECONDS}s"
    for rule in (rule for file in rules.values() for rule in file):
        for amount, unit in re.findall(r"\[(\d+)([smhd])\]", rule["expr"]):
            assert int(amount) * UNIT_SECONDS[unit] >= 4 * SCRAPE_INTERVAL_SECONDS


def test_break_even_rules_are_what_their_script_writes(tmp_path):
    script = PROMETHEUS / "break_even.py"
    subprocess.run([sys.executable, script, tmp_path], check=True)
    written = (tmp_path / "break_even.yml").read_bytes()
    assert written == (PROMETHEUS / "rules" / "break_even.yml").read_bytes()
