"""Every query of the Grafana boards on a real service: none is empty, none is off.

Grafana is not run. What it would ask is asked, with the variables filled as it fills them.
"""

import json
import math
import re
from pathlib import Path

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

BOARDS = sorted((Path(__file__).parents[4] / "deploy" / "grafana" / "dashboards").glob("*.json"))
VARIABLES = ("job", "model", "instance", "drafter", "workload")
# Longer than the traffic, so that the last point of every line is about all of it.
RANGE = "5m"
ARMS = [("dpace", "champion"), ("dflash", "shadow"), ("dflash", "challenger")]
POSITIONS = range(1, 8)
MAY_BE_EMPTY = {
    "Chi-squared of the split": "the server splits no traffic",
}


def panels():
    for file in BOARDS:
        for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]:
            for target in panel.get("targets", []):
                name = f"{file.stem}: {panel['title']} {target['refId']}"
                yield pytest.param(panel, target, id=name)


def filled(expression: str) -> str:
    for name in VARIABLES:
        expression = expression.replace(f"${name}", ".*")
    return expression.replace("$__rate_interval", RANGE).replace("$__range", "1h")


def expressions(title: str) -> list[str]:
    """Queries of the panels of this title, on whichever board."""
    found = [
        filled(target["expr"])
        for file in BOARDS
        for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]
        if panel["title"] == title
        for target in panel["targets"]
    ]
    assert found, title
    return found


def by_labels(series, *labels):
    return {
        tuple(one["metric"][label] for label in labels): float(one["value"][1]) for one in series
    }


@pytest.mark.parametrize(("panel", "target"), list(panels()))
def test_no_panel_is_empty_and_every_value_is_in_bounds(watched, panel, target):
    expression = filled(target["expr"])
    found = watched.ask(expression) if target.get("instant") else watched.ask_range(expression)
    assert bool(found) != (panel["title"] in MAY_BE_EMPTY)
    values = [
        float(value) for series in found for _, value in (series.get("values") or [series["value"]])
    ]
    # A quantile of no request is nan; nothing else may be.
    assert all(map(math.isfinite, values)) or "histogram_quantile" in expression
    shown = [value for value in values if not math.isnan(value)]
    defaults = panel["fieldConfig"]["defaults"]
    if not re.search(r" [-+] 1\.96 ", expression):  # bounds may leave what is possible
        assert all(value >= defaults.get("min", -math.inf) for value in shown)
        assert all(value <= defaults.get("max", math.inf) for value in shown)
    assert not found or shown


@pytest.mark.parametrize(
    "title", ["Acceptance by position (S_k), time range", "Acceptance by position over time"]
)
def test_bars_and_lines_by_position_are_the_records(watched, title):
    (expression,) = expressions(title)
    found = by_labels(watched.ask(expression), "drafter", "arm", "position")
    assert found == {
        (drafter, arm, str(position)): pytest.approx(
            watched.steps_at(position, "accepted", drafter=drafter, arm=arm)
            / watched.steps_at(position, "drafted", drafter=drafter, arm=arm),
            rel=1e-9,
        )
        for drafter, arm in ARMS
        for position in POSITIONS
    }
    for drafter, arm in ARMS:
        rates = [found[drafter, arm, str(position)] for position in POSITIONS]
        assert rates == sorted(rates, reverse=True)


def test_the_interval_of_tau_lies_around_that_of_the_records(watched):
    middle, low, high = (
        by_labels(watched.ask(expression), "drafter", "arm")
        for expression in expressions("Tau of the last hour, with its 95 % interval")[:3]
    )
    for drafter, arm in ARMS:
        moments = watched.moments(drafter=drafter, arm=arm)
        if (drafter, arm) not in middle:
            continue
        assert middle[drafter, arm] == pytest.approx(moments.tau, rel=1e-9)
        expected = moments.tau_interval(0.95)
        width = expected[1] - expected[0]
        assert high[drafter, arm] - low[drafter, arm] == pytest.approx(width, rel=0.25)


def test_acceptance_lies_in_its_interval_beside_the_break_even(watched):
    rate, low, high, line = (
        by_labels(watched.ask(expression), "drafter", "arm", "position")
        for expression in expressions("Acceptance against the break-even, with its 95 % interval")
    )
    assert set(rate) == {(*who, str(position)) for who in ARMS for position in POSITIONS}
    assert set(line) == set(rate)
    # Where all or nothing was accepted there is none.
    assert set(low) == set(high) == {key for key, value in rate.items() if 0 < value < 1}
    assert {(*who, position) for who in ARMS for position in "12"} <= set(low)
    for drafter, arm, position in rate:
        where = {"drafter": drafter, "arm": arm}
        accepted = watched.steps_at(int(position), "accepted", **where)
        drafted = watched.steps_at(int(position), "drafted", **where)
        assert rate[drafter, arm, position] == pytest.approx(accepted / drafted, rel=1e-9)
    for key in low:
        assert 0 <= low[key] < rate[key] < high[key] <= 1


def test_tau_by_workload_is_that_of_the_records(watched):
    (expression,) = expressions("Tau by workload, time range")
    found = by_labels(watched.ask(expression), "drafter", "arm", "workload")
    counted = {(r["drafter"], r["arm"], r["workload"]) for r in watched.counted()}
    assert set(found) == counted
    for (drafter, arm, workload), tau in found.items():
        moments = watched.moments(drafter=drafter, arm=arm, workload=workload)
        assert tau == pytest.approx(moments.tau, rel=1e-9)


def test_the_first_position_by_workload_is_that_of_the_records(watched):
    (expression,) = expressions("First position accepted")
    for (drafter, arm, workload), rate in by_labels(
        watched.ask(expression), "drafter", "arm", "workload"
    ).items():
        where = {"drafter": drafter, "arm": arm, "workload": workload}
        accepted = watched.steps_at(1, "accepted", **where)
        assert rate == pytest.approx(accepted / watched.steps_at(1, "drafted", **where), rel=1e-9)


def test_shares_and_means_of_the_load_board_are_those_of_the_counters(watched):
    steps = watched.sample("dpace_decode_steps_total")
    requests = watched.sample("dpace_decode_requests_total")
    served = [record for record in watched.counted() if record["arm"] != "shadow"]
    drafted = sum(sum(record["per_step_drafted"]) for record in served)
    expected = {
        "Time of a step": watched.sample("dpace_decode_seconds_total") / steps,
        "Batch size": requests / steps,
        "Tokens per step and request": watched.sample("dpace_decode_tokens_total") / requests,
        "Draft tokens per verification step (K)": drafted / sum(r["steps"] for r in served),
    }
    for title, value in expected.items():
        (expression,) = expressions(title)
        assert watched.value(expression) == pytest.approx(value, rel=1e-9), title


def test_unsettled_positions_are_a_share_of_all_drafted(watched):
    (expression,) = expressions("Unsettled positions")
    found = by_labels(watched.ask(expression), "drafter", "arm")
    for drafter, arm in ARMS:
        records = watched.counted(drafter=drafter, arm=arm)
        unsettled = sum(record["unsettled_drafted"] for record in records)
        drafted = sum(sum(record["per_step_drafted"]) for record in records)
        expected = unsettled / (unsettled + drafted)
        assert found[drafter, arm] == pytest.approx(expected, rel=1e-9)


def test_the_lift_of_a_challenger_is_that_of_the_records(watched):
    middle, low, high = (
        by_labels(watched.ask(expression), "arm")
        for expression in expressions("Lift of tau, last hour, with its 95 % interval")
    )
    champion = watched.moments(drafter="dpace", arm="champion").tau
    for arm in ("shadow", "challenger"):
        lift = watched.moments(drafter="dflash", arm=arm).tau / champion - 1
        assert middle[arm,] == pytest.approx(lift, rel=1e-6, abs=1e-9)
        assert low[arm,] < middle[arm,] < high[arm,]


def test_the_verdict_on_the_board_is_that_of_the_service(watched):
    (row,) = watched.verdict["comparisons"]
    who = ("challenger", "revision", "decision")
    (expression,) = expressions("Verdict")
    assert by_labels(watched.ask(expression), *who) == {
        (row["challenger"]["name"], row["challenger"]["revision"], row["decision"]): 1
    }
    (expression,) = expressions("Lift of the verdict")
    effect = row["effect"]
    assert by_labels(watched.ask(expression), "bound") == {
        ("estimate",): effect["lift"], ("low",): effect["low"], ("high",): effect["high"],
    }  # fmt: skip


def test_outcomes_in_the_shadow_count_its_records(watched):
    (expression,) = expressions("Outcomes in the shadow")
    found = by_labels(watched.ask(f"({expression}) > 0"), "outcome")
    shadows = [record for record in watched.records if record["arm"] == "shadow"]
    open_ones = sum(r["excluded"] is None and r["unsettled_drafted"] > 0 for r in shadows)
    settled = sum(r["excluded"] is None and r["unsettled_drafted"] == 0 for r in shadows)
    assert set(found) <= {("settled",), ("answer_ended",), ("excluded",)}
    assert found.get(("answer_ended",), 0) / sum(
        found[key] for key in found if key != ("excluded",)
    ) == pytest.approx(open_ones / (open_ones + settled), rel=1e-9)


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
