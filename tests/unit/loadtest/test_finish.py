"""The end of a run: what is written, what is printed, and whether it was good."""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

import dpace_loadtest
from dpace_loadtest.finish import finish
from dpace_loadtest.row_json import write_rows
from dpace_loadtest.run_result import run_result
from dpace_loadtest.terminal_summary import terminal_summary
from dpace_serve.errors import ConfigError

from .made_rows import facts, record, row, service, slo  # noqa: TID252 - tests have no package

GOOD = [row(float(number)) for number in range(20)]
PLAIN = service("http://plain", standing="no_drafter", facts=None)


def verdict(rows, services=(), *arms, **of_facts):
    return run_result(facts(*arms, **of_facts), rows, services).verdict


def at(load, arm="a", *, num_bad=0, **others):
    """20 requests, the first of which take a first token of 9 s."""
    return [
        row(float(n), arm=arm, load=load, ttft=9.0 if n < num_bad else 0.1, seconds=9.5, **others)
        for n in range(20)
    ]


def test_a_run_that_kept_everything_is_good():
    one = verdict(GOOD, slo=slo(ttft=0.2, share=1.0))
    assert (one.kind, one.exit_code) == ("good", 0)
    assert one.reason.startswith("The SLO was kept and failures stayed within their limit")
    assert "No SLO was judged" in verdict(GOOD).reason
    assert "No SLO was judged" in verdict(GOOD, slo=slo(ttft=0.2)).reason


def test_a_missed_slo_is_not_good_and_says_by_how_much():
    one = verdict(at(1.0, num_bad=2), slo=slo(ttft=1.0, share=0.95))
    assert (one.kind, one.exit_code) == ("slo_missed", 1)
    assert one.reason == (
        "Only 90.0% of the requests of a at 1 requests/s kept the SLO, less than 95.0%."
    )
    assert verdict(at(1.0, num_bad=2), slo=slo(ttft=1.0, share=0.9)).kind == "good"
    assert verdict(at(1.0, num_bad=2), slo=slo(ttft=1.0)).kind == "good"


def test_of_a_sweep_the_lowest_load_is_judged():
    sweep = [*at(2.0, num_bad=20), *at(1.0)]
    assert verdict(sweep, loads=(1.0, 2.0), slo=slo(ttft=1.0, share=0.95)).kind == "good"
    sweep = [*at(2.0), *at(1.0, num_bad=20)]
    assert verdict(sweep, loads=(1.0, 2.0), slo=slo(ttft=1.0, share=0.95)).kind == "slo_missed"


def test_an_arm_without_a_drafter_may_miss_the_slo_beside_one_with():
    rows = [*at(1.0, "plain", num_bad=20), *at(1.0, "b")]
    limits = slo(ttft=1.0, share=0.95)
    assert verdict(rows, [PLAIN], "plain", "b", slo=limits).kind == "good"
    assert verdict(rows, [], "plain", "b", slo=limits).kind == "slo_missed"
    assert verdict(rows[:20], [PLAIN], "plain", slo=limits).kind == "slo_missed"


def test_too_many_failures_are_not_good():
    rows = [*GOOD[:18], row(18.0, outcome="refused"), row(19.0, outcome="timeout")]
    one = verdict(rows, max_failed_share=0.05)
    assert (one.kind, one.exit_code) == ("too_many_failures", 1)
    assert "2 of 20 requests of a at 1 requests/s failed (1 refused, 1 timeout)" in one.reason
    assert verdict(rows, max_failed_share=0.1).kind == "good"


def test_a_saturated_generator_spoils_a_run_at_any_load_and_comes_first():
    late = at(2.0, lag=0.2, num_bad=20)
    one = verdict([*at(1.0), *late], loads=(1.0, 2.0), slo=slo(ttft=1.0, share=0.95))
    assert (one.kind, one.exit_code) == ("generator_saturated", 1)
    assert "more than 200 ms late, and 50 ms are allowed" in one.reason


def test_a_run_without_measured_requests_is_not_good():
    assert verdict([]).exit_code == 1
    assert verdict([row(phase="warm_up")]).kind == "empty"
    assert "b was measured" in verdict(GOOD, (), "a", "b").reason


def test_the_baseline_is_named_or_has_no_drafter_or_is_the_first():
    rows = [*GOOD, *(row(float(n), arm="plain") for n in range(5))]
    arms = ("a", "plain")
    assert run_result(facts(*arms), rows, [PLAIN]).baseline == "plain"
    assert run_result(facts(*arms), rows, []).baseline == "a"
    assert run_result(facts(*arms, baseline="a"), rows, [PLAIN]).baseline == "a"


@pytest.mark.parametrize(("rows", "others"), [([row(arm="c")], {}), (GOOD, {"baseline": "c"})])
def test_an_arm_that_the_scenario_does_not_have_is_an_error(rows, others):
    with pytest.raises(ConfigError, match="arms must be among a, got c"):
        run_result(facts(**others), rows, [])


def test_the_headline_load_is_the_highest_that_both_keep_up_with():
    def sweep(arm, slow_from):
        return [
            row(
                n / load, arm=arm, load=load, prompt_key=f"p{n}",
                seconds=0.5 / load if load < slow_from else 99.0,
            )
            for load in (1.0, 2.0, 4.0)
            for n in range(41)
        ]  # fmt: skip

    loads = {"loads": (1.0, 2.0, 4.0)}
    both = [*sweep("a", 4.0), *sweep("b", 9.0)]
    result = run_result(facts("a", "b", **loads), both, [])
    assert [result.keeps_up("a", load) for load in (1.0, 2.0, 4.0)] == [True, True, False]
    assert result.headline_load("b") == 2.0
    never = [*sweep("a", 0.0), *sweep("b", 9.0)]
    assert run_result(facts("a", "b", **loads), never, []).headline_load("b") == 1.0


@pytest.fixture
def finished(tmp_path):
    rows = [row(float(n), arm=arm, prompt_key=f"p{n}", response_id=f"chatcmpl-{arm}{n}")
            for arm in ("plain", "b") for n in range(20)]  # fmt: skip
    records = [record(f"chatcmpl-b{n}", (3, n % 2)) for n in range(19)]
    write_rows(tmp_path / "rows.jsonl", rows)
    with (tmp_path / "printed.txt").open("w", encoding="utf-8") as printed:
        done = finish(
            facts("plain", "b", slo=slo(ttft=0.2, share=0.9)),
            tmp_path / "rows.jsonl",
            tmp_path,
            services=[PLAIN, service("http://b", records)],
            console=Console(file=printed, width=80),
        )
    return done, tmp_path


def test_report_rows_and_page_are_written(finished):
    done, folder = finished
    report = json.loads(done.report_json.read_text(encoding="utf-8"))
    assert report["verdict"]["exit_code"] == done.verdict.exit_code == 0
    assert report["baseline"] == "plain"
    (plain, other) = report["loads"]
    assert plain["total"]["acceptance"] == []
    assert (plain["generator_cpu"], other["generator_cpu"]) == (None, 0.254)
    (drafter,) = other["total"]["acceptance"]
    # 19 requests of 2 steps: 3 and 0 or 1; nine of the numbers 0 to 18 are odd.
    assert drafter["tau"]["value"] == pytest.approx(1 + (19 * 3 + 9) / 38)
    assert other["total"]["joined"]["unjoined"] == {"not_found": 1}
    lines = done.joined_rows.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 40
    last = json.loads(lines[-1])
    assert (last["acceptance"], last["unjoined"]) == (None, "not_found")
    assert json.loads(lines[20])["acceptance"]["accepted"] == 3
    assert json.loads(lines[20])["tpot_seconds"] == pytest.approx(0.1)
    assert "<html" in done.report_html.read_text(encoding="utf-8")[:100]
    assert sorted(path.name for path in folder.iterdir()) == [
        "printed.txt", "report.html", "report.json", "requests.jsonl", "rows.jsonl",
    ]  # fmt: skip


def test_the_summary_fits_a_terminal_of_80_columns(finished):
    _, folder = finished
    lines = (folder / "printed.txt").read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "✓ good" in text
    assert "open loop" in text
    assert "1.00 [1.00, 1.00]" in text
    assert "b: without acceptance: no record names it (1)" in text


def test_the_raw_rows_are_not_written_over(tmp_path):
    write_rows(tmp_path / "requests.jsonl", GOOD)
    with pytest.raises(ConfigError, match="Keep the raw rows under another name"):
        finish(
            facts(), tmp_path / "requests.jsonl", tmp_path, services=[], console=Console(quiet=True)
        )
    assert len((tmp_path / "requests.jsonl").read_text(encoding="utf-8").splitlines()) == 20


def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path):
    write_rows(tmp_path / "rows.jsonl", GOOD)
    with pytest.raises(ConfigError, match="cannot be written"):
        finish(
            facts(), tmp_path / "rows.jsonl", tmp_path / "none", services=[],
            console=Console(quiet=True),
        )  # fmt: skip


def test_every_key_of_the_report_is_documented(finished):
    done, _ = finished
    report = json.loads(done.report_json.read_text(encoding="utf-8"))
    text = (Path(dpace_loadtest.__file__).parents[1] / "REPORT.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`([a-z0-9_]+)`", text))
    free = {"plain", "b", "code", "dpace_serve", "vllm"}  # names that a run chooses

    def keys(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield key
                yield from keys(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from keys(inner)

    assert sorted(set(keys(report)) - documented - free) == []


def test_names_of_arms_and_scenarios_are_no_markup_of_the_terminal():
    name = "[bold]x[/bold]"
    printed = io.StringIO()
    result = run_result(facts(name, name=name), [row(arm=name)], [])
    Console(file=printed, width=80).print(terminal_summary(result))
    assert printed.getvalue().count(name) == 2
