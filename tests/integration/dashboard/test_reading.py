"""That everybody can read the page: small screens, keyboards, screen readers, colours, calm."""

import itertools

import pytest

from .conftest import CHALLENGER, CHAMPION  # noqa: TID252 - tests have no package
from .scripted_json import Counted, comparison, history, speed, verdict  # noqa: TID252 - tests have no package

PHONE = {"width": 360, "height": 740}
LONG = "a-drafter-with-a-name-of-sixty-four-characters-as-long-as-allowed"
HOSTILE = "<img src=x onerror='window.pwned=1'><b>$x$</b>%{y}&amp;\"><script>pwned=1</script>"
UNNAMED = """() =>
  [...document.querySelectorAll("a, button, input, summary, [role=img], [tabindex='0']")]
    .filter((element) => element.checkVisibility())
    .filter((element) => !(element.getAttribute("aria-label") || element.textContent.trim()
      || element.labels?.length))
    .map((element) => element.outerHTML)"""
LEVELS = """() => [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")]
  .filter((element) => element.checkVisibility()).map((element) => Number(element.tagName[1]))"""
LINE_COLOUR = "() => document.querySelector('#positions-chart').data[0].line.color"
SHIFTED = """window.shifted = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.shifted += entry.value;
}).observe({ type: "layout-shift", buffered: true });"""


@pytest.fixture
def crowded(server):
    """Long and hostile texts wherever the server's words are shown."""
    counted = Counted(LONG, HOSTILE, request_name=HOSTILE)
    counted.add(12)
    server.answers = {
        "acceptance": counted.acceptance(speed=speed()),
        "drafters": counted.drafters(),
        "verdict": verdict(LONG, comparison(HOSTILE) | {"reason": HOSTILE * 3}),
        "history": history(counted),
    }
    return server


def require_no_sideways_scrolling(page):
    page.wait_until("() => document.documentElement.scrollWidth <= innerWidth")


def test_on_a_phone_the_page_does_not_scroll_sideways(shadowed, open_page):
    page = open_page(**PHONE).wait_for_numbers().draw_charts()
    for summary in page.page.locator("summary").all():
        summary.click()
    require_no_sideways_scrolling(page)


@pytest.mark.parametrize("part", ["workloads", "drafters"])
def test_on_a_phone_every_value_of_a_table_is_in_sight_under_its_name(shadowed, open_page, part):
    page = open_page(**PHONE).wait_for_numbers().draw_charts()
    frame = page.page.locator(f"#{part} .scroll")
    right = frame.evaluate("(frame) => frame.getBoundingClientRect().right")
    cells = frame.locator("tbody th, tbody td")
    assert cells.count() >= 18
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= right + 1 for box in boxes(cells))
    labels = cells.evaluate_all(
        "(cells) => cells.map((cell) => getComputedStyle(cell, '::before').content)"
    )
    heads = frame.locator("thead th").evaluate_all("(heads) => heads.map((h) => h.textContent)")
    assert all(f'"{head}' in labels[place] for place, head in enumerate(heads))
    interval = frame.get_by_role("columnheader", name="Interval")
    assert interval.count() == (part == "workloads")
    assert frame.get_by_role("row").count() == 1 + frame.locator("tbody tr").count()
    assert frame.get_by_role("cell").count() == frame.locator("tbody td").count()


def boxes(elements):
    return [element.bounding_box() for element in elements.all()]


def test_a_table_that_is_cut_shows_it_and_scrolls_by_keyboard(shadowed, open_page):
    page = open_page(**PHONE).wait_for_numbers().draw_charts()
    page.page.locator(".verdict summary").click()
    frame = page.page.locator(".verdict .scroll")
    assert frame.evaluate("(frame) => frame.scrollWidth > frame.clientWidth + 20")
    edges = frame.evaluate("(frame) => getComputedStyle(frame).backgroundAttachment")
    assert edges == "local, local, scroll, scroll"
    frame.focus()
    for _ in range(10):
        page.page.keyboard.press("ArrowRight")
    page.wait_until("() => document.querySelector('.verdict .scroll').scrollLeft > 20")


def test_long_names_do_not_make_a_phone_scroll_sideways(crowded, open_page):
    page = open_page(**PHONE).wait_for_numbers().draw_charts()
    require_no_sideways_scrolling(page)
    page.page.locator("[data-change=promote]").click()
    require_no_sideways_scrolling(page)
    box = page.page.locator("#admin-dialog").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= PHONE["width"]


def test_text_of_the_server_stays_text(crowded, open_page):
    page = open_page().wait_for_numbers().draw_charts()
    assert HOSTILE in page.page.locator(".verdict-reason").text_content()
    assert HOSTILE in page.page.locator(".verdict h3").text_content()
    assert HOSTILE in page.page.locator("#requests code").first.text_content()
    assert page.page.locator("main img, main script, main b").count() == 0
    page.page.locator("[data-change=promote]").click()
    assert HOSTILE in page.page.locator("#admin-dialog-title").text_content()
    chart = page.page.locator("#positions-chart")
    chart.scroll_into_view_if_needed()
    page.wait_until("() => document.querySelector('#positions-chart').data?.length === 3")
    assert page.page.evaluate("() => window.pwned") is None


def test_a_hostile_refusal_stays_text(shadowed, open_page):
    shadowed.refusal = (409, HOSTILE)
    page = open_page().wait_for_numbers()
    page.page.locator("[data-change=promote]").click()
    page.page.get_by_label("Admin key").fill("an-admin-key")
    page.page.locator("#admin-confirm").click()
    page.page.locator("#admin-dialog-error", has_text="onerror").wait_for()
    assert page.page.locator("#admin-dialog img").count() == 0
    assert page.page.evaluate("() => window.pwned") is None


def test_a_page_with_all_there_is_asks_for_nothing_that_fails(shadowed, open_page):
    page = open_page().wait_for_numbers().draw_charts()
    page.page.mouse.move(300, 900)
    page.page.locator("#positions-chart").hover()
    page.page.locator("#positions-chart .hoverlayer").wait_for(state="attached")
    assert page.refused == []


def test_it_has_landmarks_and_headings_in_order(shadowed, open_page):
    page = open_page().wait_for_numbers()
    for role in ("banner", "navigation", "main", "contentinfo"):
        assert page.page.get_by_role(role).count() == 1, role
    levels = page.page.evaluate(LEVELS)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))


def test_everything_that_can_be_used_has_a_name(shadowed, open_page):
    page = open_page().wait_for_numbers().draw_charts()
    assert page.page.evaluate(UNNAMED) == []
    page.page.locator("[data-change=promote]").click()
    assert page.page.evaluate(UNNAMED) == []


def test_every_table_has_a_caption_and_every_chart_words_and_a_table(shadowed, open_page):
    page = open_page().wait_for_numbers().draw_charts()
    tables = page.page.locator("table")
    assert tables.count() >= 5
    assert page.page.locator("table > caption:first-child").count() == tables.count()
    for chart in page.page.locator(".chart").all():
        assert any(figure.isdigit() for figure in chart.get_attribute("aria-label"))
        assert chart.locator("xpath=following-sibling::div//table").count() >= 1


def test_only_verdicts_and_errors_speak(shadowed, open_page):
    page = open_page().wait_for_numbers()
    live = page.page.locator("[aria-live], [role=status], [role=alert], [role=log]")
    identifiers = [element.get_attribute("id") for element in live.all()]
    assert sorted(identifiers) == ["admin-dialog-error", "announcements", "key-dialog-error"]
    assert page.page.locator("#announcements").get_attribute("aria-live") == "polite"


def test_the_first_tab_skips_to_the_numbers_and_every_stop_can_be_seen(shadowed, open_page):
    page = open_page().wait_for_numbers()
    page.page.keyboard.press("Tab")
    assert page.page.evaluate("() => document.activeElement.className") == "skip"
    stops = []
    for _ in range(12):
        style = page.page.evaluate(
            "() => { const s = getComputedStyle(document.activeElement);"
            " return [s.outlineStyle, parseFloat(s.outlineWidth),"
            " document.activeElement.textContent.trim()]; }"
        )
        assert style[0] != "none"
        assert style[1] >= 2
        stops.append(style[2])
        page.page.keyboard.press("Tab")
    buttons = [f"Promote {CHALLENGER}", f"Drop {CHALLENGER}"]
    assert stops[1:5] == ["Metrics", "Colours: system", *buttons]


def test_colours_follow_the_system_until_one_chooses(shadowed, open_page):
    page = open_page(scheme="dark").wait_for_numbers().draw_charts()
    background = "() => getComputedStyle(document.body).backgroundColor"
    dark = page.page.evaluate(background)
    drawn = page.page.evaluate(LINE_COLOUR)
    switch = page.page.locator("#theme")
    switch.click()
    assert switch.inner_text() == "Colours: light"
    assert page.page.evaluate(background) != dark
    page.wait_until(f"(was) => ({LINE_COLOUR})() !== was", drawn)
    page.page.reload()
    page.wait_for_numbers()
    assert page.page.evaluate(background) != dark
    switch.click()
    assert page.page.evaluate(background) == dark


def test_who_wants_no_motion_gets_none(shadowed, open_page):
    page = open_page(reduced_motion="reduce").wait_for_numbers().draw_charts()
    moving = """() => [...document.querySelectorAll("body *")].filter((element) => {
      const style = getComputedStyle(element);
      return style.animationName !== "none" || parseFloat(style.transitionDuration) > 0;
    }).map((element) => element.tagName)"""
    assert page.page.evaluate(moving) == []


def test_an_update_moves_nothing(shadowed, counted, open_page):
    page = open_page(before=lambda page: page.page.add_init_script(SHIFTED)).wait_for_numbers()
    page.draw_charts()
    before = page.page.evaluate("() => window.shifted")
    counted.add(2)
    page.next_round()
    page.wait_for_requests(42)
    assert page.page.evaluate("() => window.shifted") - before < 0.01


def test_names_tell_the_same_drafter_in_every_part(shadowed, open_page):
    page = open_page().wait_for_numbers()
    for part in ("#positions-legend", "#over-time-legend", "#workloads", "#drafters", "#requests"):
        styles = page.page.locator(f"{part} .mark").evaluate_all(
            "(marks) => marks.map((mark) => [mark.parentElement.textContent.split(',')[0],"
            " mark.getAttribute('class')])"
        )
        assert {tuple(style) for style in styles} == {
            (CHAMPION, "mark series-1"),
            (CHALLENGER, "mark series-2"),
        }, part
