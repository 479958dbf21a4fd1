"""How the page follows a server: rounds, hidden tabs, a server that is away, and one begun anew."""

from .conftest import CHALLENGER, CHAMPION  # noqa: TID252 - tests have no package
from .scripted_json import Counted, comparison, speed, verdict  # noqa: TID252 - tests have no package

SET_HIDDEN = """(hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_numbers_follow_the_server(shadowed, counted, open_page):
    page = open_page().wait_for_numbers()
    assert "40" in page.text("#headline")
    counted.add(3)
    page.next_round()
    page.wait_for_requests(43)


def test_what_has_not_changed_stays_the_same_element(shadowed, counted, open_page):
    page = open_page().wait_for_numbers()
    page.page.locator("#positions summary").first.click()
    page.page.locator("#positions summary").first.focus()
    counted.add(3)
    page.next_round()
    page.wait_for_requests(43)
    assert page.page.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert page.page.locator("#positions details").first.get_attribute("open") is not None


def test_only_one_request_is_under_way_at_a_time(shadowed, open_page):
    page = open_page().wait_for_numbers()
    held, release = page.hold("**/acceptance*")
    with page.page.expect_request("**/acceptance*"):
        page.next_round()
    for _ in range(3):
        page.next_round(2_500)  # together less than the page's own limit for an answer
    page.page.locator("#try-now").dispatch_event("click")
    assert len(held) == 1
    release()


def test_a_hidden_tab_asks_nothing_and_a_shown_one_at_once(shadowed, counted, open_page):
    page = open_page().wait_for_numbers()
    page.page.evaluate(SET_HIDDEN, True)
    rounds = page.asked.count("acceptance")
    page.next_round(20_000)
    assert page.asked.count("acceptance") == rounds
    counted.add(2)
    page.page.evaluate(SET_HIDDEN, False)
    page.wait_for_requests(42)


def test_a_server_that_is_away_is_said_so_and_found_again_by_itself(shadowed, counted, open_page):
    page = open_page().wait_for_numbers()
    with shadowed.away():
        page.next_round()
        page.wait_for_text("#banner", "The server is away since")
        assert "40" in page.text("#headline")  # the last numbers stay
        since = page.text("#banner").split("since ")[1][:8]
        page.next_round(4_000)
        page.wait_for_text("#banner", since)
    counted.add(1)
    page.next_round(30_000)
    page.wait_for_requests(41)
    assert page.page.locator("#banner").is_hidden()
    assert "Live" in page.text("#connection")


def test_one_can_try_at_once(shadowed, open_page):
    page = open_page().wait_for_numbers()
    with shadowed.away():
        page.next_round()
        page.page.locator("#banner").wait_for()
        # Else it may come back by itself first, where the machine is busy.
        page.page.clock.pause_at(page.page.evaluate("Date.now()") / 1000 + 0.001)
    page.page.get_by_role("button", name="Try now").click()
    page.page.locator("#banner").wait_for(state="hidden")


def test_an_answer_that_is_no_json_is_a_server_away(shadowed, open_page):
    page = open_page().wait_for_numbers()
    page.page.route("**/acceptance*", lambda route: route.fulfill(body="<html>gateway</html>"))
    page.next_round()
    page.wait_for_text("#banner", "its answer is no JSON")


def test_counters_that_fall_begin_the_history_anew(server, counted, open_page):
    server.answers = {"acceptance": counted.acceptance, "drafters": counted.drafters()}
    page = open_page().wait_for_numbers()
    counted.add(5)
    page.next_round(12_000)
    page.wait_for_count("#over-time tbody tr", 1)
    begun_anew = Counted(CHAMPION, CHALLENGER)
    begun_anew.add(2)
    server.answers["acceptance"] = begun_anew.acceptance
    page.next_round()
    page.wait_for_text("#counted-since", "it started anew before")
    page.wait_for_count("#over-time tbody tr", 0)


def test_a_changed_verdict_is_said_aloud_and_an_unchanged_one_is_not(shadowed, counted, open_page):
    shadowed.answers["verdict"] = verdict(CHAMPION, comparison(CHALLENGER, "hold"))
    page = open_page().wait_for_numbers()
    assert page.text("#announcements") == ""
    again = comparison(CHALLENGER, "hold", requests=500)
    shadowed.answers["verdict"] = verdict(CHAMPION, again)
    page.next_round()
    page.wait_for_text(".verdict-reason", "500 requests")
    assert page.text("#announcements") == ""
    shadowed.answers["verdict"] = verdict(CHAMPION, comparison(CHALLENGER, "promote", "lift"))
    page.next_round()
    page.wait_for_text("#announcements", f"{CHALLENGER}: Promote.")


def test_a_challenger_that_goes_takes_its_card_with_it(shadowed, open_page):
    page = open_page().wait_for_numbers().draw_charts()
    assert page.page.locator(".verdict").count() == 1
    shadowed.answers["verdict"] = verdict(CHAMPION)
    page.next_round()
    page.wait_for_count(".verdict", 0)
    shadowed.answers["verdict"] = verdict(CHAMPION, comparison(CHALLENGER))
    page.next_round()
    page.page.locator(".verdict .js-plotly-plot .main-svg").first.wait_for()


def test_a_chart_follows_the_numbers(shadowed, counted, open_page):
    page = open_page().wait_for_numbers()
    drawn = "document.querySelector('#positions-chart').data?.[0]?.y?.[0]"
    page.wait_until(f"() => {drawn} !== undefined")
    counted.add(20)
    page.next_round()
    rate = counted.acceptance(speed=speed())["drafters"][0]["accepted_per_position"][0]
    page.wait_until(f"(rate) => {drawn} === rate", rate)
