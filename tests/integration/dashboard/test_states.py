"""What the page shows of every state that a server can be in."""

import pytest

from dpace_serve.acceptance.exclusion import EXCLUSION_REASONS
from dpace_serve.metrics.labels import EXPORT_STAGES

from .conftest import CHALLENGER, CHAMPION  # noqa: TID252 - tests have no package
from .scripted_json import (  # noqa: TID252 - tests have no package
    Counted,
    comparison,
    history,
    speed,
    too_little_data,
    verdict,
)


def test_before_the_first_answer_it_says_that_it_is_loading(shadowed, open_page):
    releases = []
    page = open_page(before=lambda page: releases.append(page.hold("**/acceptance*")[1]))
    page.wait_for_text("#headline", "Loading")
    assert page.page.locator("main").get_attribute("aria-busy") == "true"
    releases[0]()
    page.wait_for_numbers()
    assert "Loading" not in page.text("main")


def test_a_server_without_a_drafter_says_how_to_start_one_with_it(server, open_page):
    server.answers = {"acceptance": {"drafter": None}}
    page = open_page().wait_for_numbers()
    assert "dpace serve TARGET --drafter FOLDER" in page.text("#nothing-drafted")
    assert page.page.locator("#sections").is_hidden()


def test_a_server_without_a_challenger_says_how_to_load_one(server, open_page):
    alone = Counted(CHAMPION)
    alone.add(5)
    server.answers = {
        "acceptance": alone.acceptance(),
        "drafters": alone.drafters(),
        "verdict": verdict(CHAMPION),
    }
    page = open_page().wait_for_numbers()
    assert "dpace drafter challenge FOLDER" in page.text("#verdicts")
    assert page.page.locator("#verdicts button").count() == 0


def test_the_gain_is_the_headline_with_what_it_was_measured_on(shadowed, open_page):
    page = open_page().wait_for_numbers()
    headline = page.text("#headline")
    for words in ("1.84 ×", "84 % faster", "412", "3.2", "21.0 ms", "over 812 steps", "last 60"):
        assert words in headline
    assert "whose own error is not in the number" in headline


def test_a_loss_is_called_a_loss(shadowed, counted, open_page):
    shadowed.answers["acceptance"] = counted.acceptance(speed=speed(0.9))
    page = open_page().wait_for_numbers()
    assert "10 % slower" in page.text("#headline")


@pytest.mark.parametrize(
    ("given", "cure"),
    [(None, "none of the last minute was timed"), (speed(None), "--step-times FILE")],
)
def test_without_a_gain_the_headline_is_tau_and_how_to_get_the_gain(
    shadowed, counted, open_page, given, cure
):
    shadowed.answers["acceptance"] = counted.acceptance(speed=given)
    page = open_page().wait_for_numbers()
    total = counted.acceptance()["drafters"][0]
    assert f"{total['tau']:.2f}" in page.text("#headline .display")
    assert f"[{total['tau_low']:.2f}, {total['tau_high']:.2f}]" in page.text("#headline")
    assert cure in page.text("#headline .note")


@pytest.mark.parametrize(("sizes", "words"), [([1, 8], "which is 1 to 8"), ([4, 4], "which is 4.")])
def test_a_batch_outside_of_the_measured_ones_is_not_called_uncalibrated(
    shadowed, counted, open_page, sizes, words
):
    given = speed(None, calibrated_batch_sizes=sizes)
    shadowed.answers["acceptance"] = counted.acceptance(speed=given)
    note = open_page().wait_for_numbers().text("#headline .note")
    assert "no step of the last minute was at a measured batch size" in note
    assert words in note
    assert "not calibrated" not in note


@pytest.mark.parametrize(
    ("decision", "word"), [("promote", "Promote"), ("hold", "Hold"), ("rollback", "Roll back")]
)
def test_a_decision_is_a_word_and_an_icon_beside_its_colour(shadowed, open_page, decision, word):
    shadowed.answers["verdict"] = verdict(CHAMPION, comparison(CHALLENGER, decision))
    page = open_page().wait_for_numbers()
    assert page.text(".decision") == word
    assert page.page.locator(f".decision.{decision} svg path").count() == 1


def test_a_verdict_shows_its_reason_and_its_numbers(shadowed, open_page):
    page = open_page().wait_for_numbers()
    card = page.text(".verdict")
    assert "daring gives +4.3% tokens per second" in card
    for words in ("+4.3 %", "[+2.1 %, +6.5 %]", "2.83", "[2.71, 2.94]", "412", "1.000 ×"):
        assert words in card


@pytest.mark.parametrize(
    ("now", "since"),
    [
        (1_790_000_180 + 3600, "14:16:20"),  # 2026-09-21 14:16:20 UTC
        (1_790_000_180 + 86_400, "14:16:20 21 Sept 2026"),
        (1_790_000_180 + 9 * 3600 + 2620, "14:16:20 21 Sept 2026"),  # 0:00:00 of the next day
    ],
)
def test_a_comparison_says_since_when_and_its_date_where_that_is_not_today(
    shadowed, open_page, now, since
):
    def set_clock(page):
        page.page.clock.set_system_time(now)

    page = open_page(before=set_clock, timezone_id="UTC").wait_for_numbers()
    fact = page.page.locator(".verdict .facts > div").filter(has_text="Compared since")
    assert fact.locator("dd").inner_text().split() == since.split()


def test_without_step_times_the_lift_is_that_of_tau(shadowed, open_page):
    unknown = comparison(CHALLENGER, "hold", "step_time_unknown")
    unknown |= {"effect": None, "step_time": None}
    unknown["tau"] |= {"lift": 0.031, "low": 0.01, "high": 0.052}
    shadowed.answers["verdict"] = verdict(CHAMPION, unknown)
    card = open_page().wait_for_numbers().text(".verdict").replace("\xa0", " ")
    assert "Lift in tau" in card
    assert "+3.1 %" in card
    assert "tokens/s" not in card


def test_what_is_still_missing_to_a_decision_is_a_number_of_requests(shadowed, open_page):
    shadowed.answers["verdict"] = verdict(CHAMPION, too_little_data(CHALLENGER))
    page = open_page().wait_for_numbers()
    assert "12 requests so far, about 88 more to decide" in page.text(".verdict")
    progress = page.page.locator(".verdict progress")
    assert (progress.get_attribute("value"), progress.get_attribute("max")) == ("12", "100")
    assert page.page.locator(".verdict .chart.empty").count() == 1


def test_every_chart_is_drawn_and_every_table_says_the_same(shadowed, counted, open_page):
    page = open_page().wait_for_numbers().draw_charts()
    page.wait_until("() => document.querySelectorAll('.js-plotly-plot').length === 3")
    assert page.page.locator(".chart.empty").count() == 0
    page.page.locator("#positions summary").first.click()
    cells = page.page.locator("#positions tbody tr").first.locator("td").all_inner_texts()
    expected = []
    for row in counted.acceptance()["drafters"]:
        if "workload" not in row:
            rate, low, high = (
                f"{100 * row[f'accepted_per_position{bound}'][0]:.1f} %"
                for bound in ("", "_low", "_high")
            )
            expected += [rate, f"[{low}, {high}]"]
    assert [cell.replace("\xa0", " ") for cell in cells] == [*expected, "5.0 %"]


def test_a_break_even_line_outside_of_the_chart_is_at_its_edge(shadowed, counted, open_page):
    given = speed()
    given["break_even"] = [{"position": 1, "rate": -0.2}, {"position": 2, "rate": 1.3}]
    shadowed.answers["acceptance"] = counted.acceptance(speed=given)
    page = open_page().wait_for_numbers().draw_charts()
    line = "() => document.querySelector('#positions-chart').data?.at(-1)"
    page.wait_until(f"() => ({line})()?.name === 'break-even'")
    assert page.page.evaluate(line)["y"] == [0, 1]
    page.page.locator("#positions summary").first.click()
    cells = page.page.locator("#positions tbody tr").nth(1).locator("td").all_inner_texts()
    assert cells[-1].replace("\xa0", " ") == "130.0 %"


def test_workloads_have_tau_interval_and_requests(shadowed, counted, open_page):
    page = open_page().wait_for_numbers()
    rows = page.page.locator("#workloads tbody tr").all_inner_texts()
    expected = [row for row in counted.acceptance()["drafters"] if row.get("workload") == "code"]
    shown = [row.split() for row in rows if row.startswith("code")]
    assert [row[1] for row in shown] == [f"{row['drafter']}," for row in expected]
    for cells, row in zip(shown, expected, strict=True):
        assert f"{row['tau']:.2f}" in cells
        assert str(row["requests"]) in cells


def test_a_request_shows_its_steps_and_says_them_in_words(shadowed, counted, open_page):
    page = open_page().wait_for_numbers()
    newest = counted.records[-2]
    strip = page.page.locator("#requests .strip").first
    first = f"{newest.per_step_accepted[0]} of {newest.per_step_drafted[0]}"
    assert strip.get_attribute("aria-label").startswith(f"Accepted by step: {first}")
    assert newest.request_id in page.text("#requests li >> nth=0")
    blocks = strip.locator(".accepted").get_attribute("d")
    assert blocks.count("M") == newest.steps


def test_slots_show_who_is_in_them(shadowed, open_page):
    page = open_page().wait_for_numbers()
    rows = page.page.locator("#drafters tbody tr").all_inner_texts()
    assert [row.split()[:3] for row in rows] == [
        ["0", CHAMPION, "champion"],
        ["1", CHALLENGER, "challenger"],
        ["2", "empty", "empty"],
    ]
    assert "100 % of the champion" in page.text("#drafters caption")


def test_what_was_left_out_is_counted_in_words(shadowed, counted, open_page):
    counted.metrics.export_error("log", 2)
    counted.metrics.unknown_workload()
    page = open_page().wait_for_numbers()
    assert "could not be written" in page.text("#not-counted")
    assert "1 request named an unknown workload" in page.text("#not-counted")


def test_everything_that_can_be_left_out_or_lost_has_words(shadowed, counted, open_page):
    given = counted.acceptance(speed=speed())
    given["excluded"] = dict.fromkeys(EXCLUSION_REASONS, 3)
    given["export_errors"] = dict.fromkeys(EXPORT_STAGES, 2)
    shadowed.answers["acceptance"] = given
    page = open_page().wait_for_numbers()
    rows = page.page.locator("#not-counted tbody tr")
    whys = rows.locator("td:nth-child(2)").all_inner_texts()
    assert len(whys) == len(set(whys)) == len(EXCLUSION_REASONS) + len(EXPORT_STAGES)
    assert all(" " in why for why in whys), whys  # a name of the code is one word


def test_a_split_says_so(server, open_page):
    counted = Counted(CHAMPION, CHALLENGER, arm="challenger")
    counted.add(10)
    server.answers = {
        "acceptance": counted.acceptance(),
        "drafters": counted.drafters(mode="split"),
        "verdict": verdict(CHAMPION, comparison(CHALLENGER, design="split")),
    }
    page = open_page().wait_for_numbers()
    assert "each challenger serves 10 %" in page.text("#drafters caption")
    assert f"{CHALLENGER}, challenger" in page.text("#positions-legend")
    assert "drawn; champion 412" in page.text(".verdict")


def test_in_a_split_the_smaller_arm_is_what_requests_are_missing_in(server, counted, open_page):
    smaller = comparison(CHALLENGER, design="split")
    smaller |= {"requests": {"champion": 900, "challenger": 100}, "more_requests": 50}
    server.answers = {"acceptance": counted.acceptance(), "verdict": verdict(CHAMPION, smaller)}
    page = open_page().wait_for_numbers()
    assert "100 requests so far, about 50 more" in page.text(".verdict .progress")


def test_two_challengers_have_a_card_a_colour_and_a_shape_each(server, open_page):
    counted = Counted(CHAMPION, "daring", "wild")
    counted.add(10)
    server.answers = {
        "acceptance": counted.acceptance(),
        "drafters": counted.drafters(),
        "verdict": verdict(CHAMPION, comparison("daring"), comparison("wild", "rollback")),
        "history": history(counted),
    }
    page = open_page().wait_for_numbers()
    assert page.page.locator(".verdict h3").all_inner_texts() == ["daring", "wild"]
    marks = page.page.locator("#positions-legend .mark")
    assert marks.count() == 3
    assert len({marks.nth(place).inner_html() for place in range(3)}) == 3
    assert len({marks.nth(place).get_attribute("class") for place in range(3)}) == 3


def test_a_server_without_verdicts_and_history_shows_all_the_rest(server, counted, open_page):
    server.answers = {"acceptance": counted.acceptance, "drafters": counted.drafters()}
    page = open_page().wait_for_numbers()
    assert "gives no verdicts" in page.text("#verdicts")
    assert page.page.locator("#workloads tbody tr").count() == 4
    counted.add(10)
    page.next_round(12_000)
    page.wait_for_text("#over-time", "As seen since this page was opened")
    assert page.page.locator("#over-time tbody tr").count() == 1


def test_routes_that_are_missing_are_not_asked_for_every_time(server, counted, open_page):
    server.answers = {"acceptance": counted.acceptance, "drafters": counted.drafters()}
    page = open_page().wait_for_numbers()
    for number in range(3):
        counted.add()
        page.next_round()
        page.wait_for_requests(41 + number)
    assert server.asked.count("acceptance") >= 4
    assert server.asked.count("verdict") == 1


def test_without_plotly_it_says_so_and_the_tables_are_there(shadowed, open_page):
    shadowed.has_plotly = False
    shadowed.restart()
    page = open_page().wait_for_numbers()
    page.wait_for_text("#positions-chart", "Charts need plotly")
    assert page.page.locator("#positions tbody tr").count() >= 7
