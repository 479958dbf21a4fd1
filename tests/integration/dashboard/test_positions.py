"""Acceptance by position with its intervals: hand-made numbers in chart, table and words."""

import pytest

from .scripted_json import speed  # noqa: TID252 - tests have no package

CHART = "#positions-chart"
# Position 1 leans to one side, 2 has no interval, and 3 ends at 0.
RATES, LOWS, HIGHS = [0.75, 1.0, 0.125], [0.5, None, 0.0], [0.875, None, 0.25]
# Chromium's own path of each bar: up or down from the rate, or nothing.
BARS = """() => [...document.querySelectorAll("#positions-chart .trace")].map((trace) =>
  [...trace.querySelectorAll(".errorbar path")].map((bar) => bar.getBBox().height))"""
SCALE = """() => {
  const { _length, range } = document.querySelector("#positions-chart")._fullLayout.yaxis;
  return _length / (range[1] - range[0]);
}"""


def with_intervals(counted, rates, lows, highs):
    """What the server says, with these numbers for all who are shown, and three positions."""
    given = counted.acceptance(speed=speed(None))
    given["num_draft_tokens"] = len(rates)
    for row in given["drafters"]:
        row |= {
            "accepted_per_position": rates,
            "accepted_per_position_low": lows,
            "accepted_per_position_high": highs,
        }
    return given


@pytest.fixture
def page(shadowed, counted, open_page):
    shadowed.answers["acceptance"] = with_intervals(counted, RATES, LOWS, HIGHS)
    page = open_page().wait_for_numbers().draw_charts()
    page.page.locator(CHART).scroll_into_view_if_needed()
    page.wait_until(f"() => ({BARS})().length === 2")
    return page


def test_each_arm_has_whiskers_of_its_own_on_both_sides_and_none_where_there_is_no_interval(page):
    for trace in page.page.evaluate(f"() => document.querySelector('{CHART}').data"):
        assert trace["y"] == RATES
        assert trace["error_y"]["arrayminus"][::2] == [0.25, 0.125]
        assert trace["error_y"]["array"][::2] == [0.125, 0.125]
    pixels = page.page.evaluate(SCALE)
    for heights in page.page.evaluate(BARS):
        assert len(heights) == 2  # none at position 2, not even of no length
        assert heights == pytest.approx([(0.875 - 0.5) * pixels, 0.25 * pixels], abs=1)


def test_whiskers_of_two_arms_stand_side_by_side_at_their_position(page):
    data = page.page.evaluate(f"() => document.querySelector('{CHART}').data")
    (left, right) = (trace["x"] for trace in data)
    for position, (one, other) in enumerate(zip(left, right, strict=True), start=1):
        assert one < position < other
        assert one + other == pytest.approx(2 * position)
        assert other - one < 0.5


def test_the_table_has_a_column_of_intervals_for_each_arm(page):
    page.page.locator("#positions summary").first.click()
    table = page.page.locator("#positions table").first
    heads = table.locator("thead th").all_inner_texts()
    arms = ["steady, champion", "daring, in the shadow"]
    assert heads == ["Position", *(head for arm in arms for head in (arm, f"Interval of {arm}"))]
    rows = [row.replace("\xa0", " ") for row in table.locator("tbody tr").all_inner_texts()]
    cells = [
        ["75.0 %", "[50.0 %, 87.5 %]"],
        ["100.0 %", "\N{EN DASH}"],
        ["12.5 %", "[0.0 %, 25.0 %]"],
    ]
    expected = [[str(place), *pair, *pair] for place, pair in enumerate(cells, start=1)]
    assert [row.split("\t") for row in rows] == expected
    assert "95 % intervals" in table.locator("caption").inner_text().replace("\xa0", " ")


def test_who_hears_the_chart_hears_the_intervals(page):
    words = page.page.locator(CHART).get_attribute("aria-label").replace("\xa0", " ")
    assert words == (
        "Acceptance by position with 95 % intervals. "
        "steady, champion: 75 % [50 %, 88 %], 100 %, 13 % [0 %, 25 %]. "
        "daring, in the shadow: 75 % [50 %, 88 %], 100 %, 13 % [0 %, 25 %]"
    )


def test_the_page_says_what_its_intervals_are(page):
    assert "Whiskers are 95 % intervals with the request as unit" in page.text("#positions")
    foot = page.text("#about-intervals")
    assert "acceptance by position are 95 % intervals with the request as unit" in foot
    assert "hold for one look" in foot


def test_a_server_that_gives_no_intervals_shows_its_rates(shadowed, counted, open_page):
    given = with_intervals(counted, RATES, None, None)
    for row in given["drafters"]:
        del row["accepted_per_position_low"], row["accepted_per_position_high"]
    shadowed.answers["acceptance"] = given
    page = open_page().wait_for_numbers().draw_charts()
    page.wait_until(f"() => document.querySelector('{CHART}').data?.length === 2")
    page.page.locator("#positions summary").first.click()
    cells = page.page.locator("#positions tbody tr").first.locator("td").all_inner_texts()
    assert [cell.replace("\xa0", " ") for cell in cells] == ["75.0 %", "\N{EN DASH}"] * 2
    assert [heights for heights in page.page.evaluate(BARS) if heights] == []
