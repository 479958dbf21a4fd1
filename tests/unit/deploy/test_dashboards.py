"""The shipped Grafana boards: what their script writes, over names that exist, laid out legibly."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

GRAFANA = Path(__file__).parents[3] / "deploy" / "grafana"
BOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
VARIABLES = ["datasource", "job", "model", "instance", "drafter", "workload"]
FILLED = {"$__rate_interval": "1m", "$__range": "1h"} | {f"${name}": ".*" for name in VARIABLES}


@pytest.fixture(params=BOARDS, ids=lambda file: file.stem)
def board(request) -> dict:
    return json.loads(request.param.read_text(encoding="utf-8"))


@pytest.fixture
def targets(board) -> list[tuple[str, dict]]:
    """Title of the panel and each of its queries."""
    return [
        (panel["title"], target) for panel in board["panels"] for target in panel.get("targets", [])
    ]


def filled(expression: str) -> str:
    for variable, value in FILLED.items():
        expression = expression.replace(variable, value)
    return expression


def test_the_committed_boards_are_what_the_script_writes(tmp_path):
    subprocess.run([sys.executable, GRAFANA / "dashboards.py", tmp_path], check=True)
    written = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert written == {file.name: file.read_bytes() for file in BOARDS}
    assert len(written) == 5


def test_every_expression_uses_names_and_labels_that_exist(targets, labels_of):
    assert targets
    for title, target in targets:
        assert "$" not in filled(target["expr"]), title
        labels_of(filled(target["expr"]))


def test_every_legend_names_labels_of_its_series(targets, labels_of):
    for title, target in targets:
        named = set(re.findall(r"{{(\w+)}}", target.get("legendFormat", "")))
        assert named <= labels_of(filled(target["expr"])), title


def test_series_of_one_panel_cannot_share_a_legend(targets, labels_of):
    # A label of the result that the legend leaves out would draw two lines with one name.
    constant = {"job", "model"}
    for title, target in targets:
        legend = target.get("legendFormat")
        if legend is not None:
            named = set(re.findall(r"{{(\w+)}}", legend))
            assert labels_of(filled(target["expr"])) - named <= constant, title


def test_every_variable_asks_for_a_label_that_exists(board, labels_of):
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert list(variables) == VARIABLES
    for name in VARIABLES[1:]:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", variables[name]["query"])
        assert found[2] in labels_of(filled(found[1]))
        assert variables[name]["allValue"] == ".*"


def test_every_panel_says_how_to_read_it(board):
    for panel in board["panels"]:
        assert panel["title"]
        if panel["type"] != "text":
            assert len(panel["description"]) > 40, panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"]


def test_panel_ids_and_titles_are_unique(board):
    for key in ("id", "title"):
        values = [panel[key] for panel in board["panels"]]
        assert len(set(values)) == len(values)


def test_no_two_panels_overlap_and_none_leaves_the_grid(board):
    places = [panel["gridPos"] for panel in board["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


def test_the_datasource_is_always_the_variable(board):
    found = list(_datasources(board))
    assert found
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in found)


def test_boards_link_to_each_other_and_keep_time_and_variables(board):
    (link,) = board["links"]
    assert link["tags"] == board["tags"] == ["dpace"]
    assert link["includeVars"]
    assert link["keepTime"]


def test_the_datasource_is_told_how_often_is_scraped():
    # $__rate_interval is 4 of these; without it Grafana takes 15 s for granted.
    prometheus = yaml.safe_load((GRAFANA.parent / "prometheus" / "prometheus.yml").read_text())
    provisioned = GRAFANA / "provisioning" / "datasources" / "prometheus.yml"
    (source,) = yaml.safe_load(provisioned.read_text())["datasources"]
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]


def test_uids_and_titles_of_boards_are_unique():
    boards = [json.loads(file.read_text(encoding="utf-8")) for file in BOARDS]
    assert len({board["uid"] for board in boards}) == len(boards)
    assert len({board["title"] for board in boards}) == len(boards)
    assert all("id" not in board or board["id"] is None for board in boards)


def _datasources(node):
    if isinstance(node, dict):
        if "datasource" in node:
            yield node["datasource"]
        for value in node.values():
            yield from _datasources(value)
    elif isinstance(node, list):
        for value in node:
            yield from _datasources(value)
