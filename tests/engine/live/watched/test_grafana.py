"""Every query of the Grafana boards on a real service: none is empty, each has the known numbers.

Grafana is not run. What it would ask is asked, with the variables filled as it fills them.
"""

import json
import math
import re
from pathlib import Path

import pytest

from tests.engine.live.watched.comparing import require
from tests.engine.live.watched.expected_panels import HOUR, PANELS

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

BOARDS = sorted((Path(__file__).parents[4] / "deploy" / "grafana" / "dashboards").glob("*.json"))
VARIABLES = ("job", "model", "instance", "drafter", "workload")
# Longer than the traffic, so that the last point of every line is about all of it.
RANGE = f"{HOUR // 60}m"


def queries():
    """Board, title and place of every query, and the query."""
    for file in BOARDS:
        for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]:
            for place, target in enumerate(panel.get("targets", [])):
                name = f"{file.stem}: {panel['title']} {target['refId']}"
                yield pytest.param(file.stem, panel, place, id=name)


def filled(expression: str) -> str:
    for name in VARIABLES:
        expression = expression.replace(f"${name}", ".*")
    return expression.replace("$__rate_interval", RANGE).replace("$__range", RANGE)


@pytest.fixture
def expected(board, panel, place):
    return PANELS[board][panel["title"]][place]


@pytest.fixture
def server(request, expected):
    """The server that has what the query asks for."""
    return request.getfixturevalue(expected.fixture)


def test_every_query_has_numbers_to_be_compared_with():
    shown = {
        file.stem: {
            panel["title"]: len(panel["targets"])
            for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]
            if "targets" in panel
        }
        for file in BOARDS
    }
    assert shown == {
        board: {title: len(expected) for title, expected in titles.items()}
        for board, titles in PANELS.items()
    }


@pytest.mark.parametrize(("board", "panel", "place"), list(queries()))
def test_a_query_has_the_known_numbers(server, expected, panel, place):
    require(server, filled(panel["targets"][place]["expr"]), expected)


@pytest.mark.parametrize(("board", "panel", "place"), list(queries()))
def test_no_panel_is_empty_and_every_value_is_in_bounds(server, expected, panel, place):
    target = panel["targets"][place]
    expression = filled(target["expr"])
    found = server.ask(expression) if target.get("instant") else server.ask_range(expression)
    values = [
        float(value) for series in found for _, value in (series.get("values") or [series["value"]])
    ]
    # A quantile of no request is nan; nothing else may be.
    assert all(map(math.isfinite, values)) or "histogram_quantile" in expression
    shown = [value for value in values if not math.isnan(value)]
    assert shown
    defaults = panel["fieldConfig"]["defaults"]
    if not re.search(r" [-+] 1\.96 ", expression):  # bounds may leave what is possible
        assert all(value >= defaults.get("min", -math.inf) for value in shown)
        assert all(value <= defaults.get("max", math.inf) for value in shown)


def test_the_load_board_saw_the_requests_run(watched):
    def most(title: str) -> float:
        (panel,) = (
            panel
            for file in BOARDS
            for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]
            if panel["title"] == title
        )
        found = watched.ask_range(filled(panel["targets"][0]["expr"]))
        return max(float(value) for series in found for _, value in series["values"])

    # Four clients, of whom one asks for two answers at once.
    assert 2 <= most("Requests running and waiting") <= 5
    assert 0 < most("KV cache in use") < 1


@pytest.mark.parametrize("board", BOARDS, ids=lambda file: file.stem)
def test_every_variable_offers_what_there_is(watched, board):
    variables = json.loads(board.read_text(encoding="utf-8"))["templating"]["list"]
    offered = {}
    for variable in variables[1:]:
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]).groups()
        offered[variable["name"]] = watched.label_values(filled(selector), label)
    assert offered.pop("instance")
    workloads = {sample.labels["workload"] for sample in watched.samples["dpace_request_tau_count"]}
    assert offered == {
        "job": ["dpace"],
        "model": ["default"],
        "drafter": ["dflash", "dpace"],
        "workload": sorted(workloads),
    }
    assert "other" in workloads
