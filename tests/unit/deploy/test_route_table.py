"""The table of routes in deploy/README.md: every route, its tests exist, each alert has a line."""

import re
from pathlib import Path

import pytest
import yaml
from fastapi import FastAPI

from dpace_serve.gate import api_document
from dpace_serve.gate.route_table import OPEN_ROUTES
from dpace_serve.web import routes

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "deploy/README.md").read_text(encoding="utf-8")
TABLE = DOCUMENT.partition("<!-- routes -->")[2].partition("<!-- /routes -->")[0]
NAMED_TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", DOCUMENT)))


def documented() -> set[str]:
    return set(re.findall(r"^\| `([A-Z]+ /\S*)`", TABLE, flags=re.MULTILINE))


def ours() -> set[str]:
    app = FastAPI(openapi_url=None)
    routes.attach(app, ())
    found = {f"GET {api_document.PATH}"}
    for route in app.routes:
        if "/static/" in route.path or route.path == "/dpace":
            continue  # of the page, which has one line
        found |= {f"{method} {route.path}" for method in route.methods - {"HEAD"}}
    return found


def test_every_route_that_is_open_is_in_the_table_and_no_other():
    assert documented() == ours() | set(OPEN_ROUTES)


def test_each_line_names_who_may_call_it_and_a_test():
    lines = [line for line in TABLE.splitlines() if line.startswith("| `")]
    assert len(lines) == len(documented())
    for line in lines:
        _, _, who, proof, _ = line.split("|")
        assert who.strip()
        assert "tests/" in proof or proof.strip() == "the same"


@pytest.mark.parametrize(("file", "name"), NAMED_TESTS)
def test_the_tests_that_it_names_are_there(file, name):
    source = (ROOT / file).read_text(encoding="utf-8")
    assert not name or re.search(rf"^(async )?def {name}\(", source, flags=re.MULTILINE)


def test_the_runbook_says_what_to_do_for_every_alert():
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules/alerts.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    runbook = DOCUMENT.partition("### Alerts")[2]
    assert set(re.findall(r"^\| ([A-Z]\w+) \|", runbook, flags=re.MULTILINE)) == alerts
