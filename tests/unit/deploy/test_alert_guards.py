"""Every guard of every alert is pinned by its tests: without it one of them fails."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.unit.deploy.rule_mutants import mutants

PROMETHEUS = Path(__file__).parents[3] / "deploy" / "prometheus"
MUST_BE_SILENT = ("no traffic", "restart")


def rules_of(file):
    groups = yaml.safe_load((PROMETHEUS / "rules" / file).read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = rules_of("alerts.yml")
RECORDED = rules_of("recording.yml")
NAMES = sorted({rule["alert"] for rule in ALERTS})


def file_of(alert):
    """The tests of an alert: tail_dead.yml of TailDead."""
    return PROMETHEUS / "tests" / f"{re.sub('(?<!^)(?=[A-Z])', '_', alert).lower()}.yml"


def needed_by(rules):
    """Recording rules that these rules read, and those that they read, in their order."""
    texts, needed = [rule["expr"] for rule in rules], set()
    while texts:
        for name in re.findall(r"dpace:\w+:\w+", texts.pop()):
            if name not in needed:
                needed.add(name)
                texts += [rule["expr"] for rule in RECORDED if rule["record"] == name]
    return [rule for rule in RECORDED if rule["record"] in needed]


@pytest.fixture
def passes(tmp_path):
    """Run the tests of an alert with other rules; skips where there is no promtool."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")

    def run(alert, rules):
        rules = [rule for rule in rules if rule["alert"] == alert]
        group = {"name": "all", "rules": [*needed_by(rules), *rules]}
        (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [group]}, sort_keys=False))
        tests = file_of(alert).read_text(encoding="utf-8")
        tests, num_replaced = re.subn(r"(?m)^rule_files: .*$", "rule_files: [rules.yml]", tests)
        assert num_replaced == 1
        (tmp_path / "tests.yml").write_text(tests, encoding="utf-8")
        command = ["promtool", "test", "rules", tmp_path / "tests.yml"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    return run


@pytest.mark.parametrize("alert", NAMES)
def test_an_alert_is_silent_without_traffic_and_over_a_restart(alert):
    tests = yaml.safe_load(file_of(alert).read_text(encoding="utf-8"))["tests"]
    titles = [test["name"] for test in tests if not fired(test)]
    for needed in MUST_BE_SILENT:
        assert any(title.startswith(f"{alert} is silent: ") and needed in title for title in titles)


def fired(test):
    return any(check.get("exp_alerts") for check in test["alert_rule_test"])


@pytest.mark.slow
@pytest.mark.parametrize("alert", NAMES)
def test_without_any_of_its_guards_an_alert_fails_its_tests(passes, alert):
    assert passes(alert, ALERTS)
    survived, tried = [], 0
    for place, rule in enumerate(ALERTS):
        for what, changed in mutants(rule) if rule["alert"] == alert else ():
            tried += 1
            if passes(alert, [*ALERTS[:place], changed, *ALERTS[place + 1 :]]):
                survived.append(what)
    assert tried >= 2
    assert survived == []
