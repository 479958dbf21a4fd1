"""The live page on a real server: its numbers are the server's, and its buttons change drafters."""

import hashlib
import re

import pytest

from .conftest import ADMIN_KEY, CHALLENGER, CHAMPION, COMPLETIONS  # noqa: TID252 - tests have no package

pytestmark = pytest.mark.engine

API_KEY = "a-key-for-tests"
MANY_SECONDS = 60_000


@pytest.fixture(scope="module")
def browser(open_browser):
    with open_browser() as browser:
        yield browser


@pytest.fixture
def complaints():
    return []


@pytest.fixture
def page(browser, live, complaints):
    """The page with the API key given; it may not complain of anything."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(MANY_SECONDS)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.goto(f"{live.client.base_url}/dpace/")
    page.get_by_label("API key", exact=True).fill(API_KEY)
    page.get_by_role("button", name="Show the numbers").click()
    page.locator('main[aria-busy="false"]').wait_for()
    yield page
    context.close()
    # Chromium says so of the first answer, which asks for the key, and of missing routes.
    assert [words for words in complaints if "Failed to load resource" not in words] == []


def total_of(live, arm):
    rows = live.served.acceptance()["drafters"]
    return next(row for row in rows if row["arm"] == arm and "workload" not in row)


def rate_and_interval(arm, position):
    rate, low, high = (
        arm[f"accepted_per_position{end}"][position] for end in ("", "_low", "_high")
    )
    interval = "\N{EN DASH}" if low is None else f"[{100 * low:.1f} %, {100 * high:.1f} %]"
    return [f"{100 * rate:.1f} %", interval]


def wait_for_requests(page, count):
    page.locator("#headline dd").filter(
        has_text=re.compile(rf"^{count}\s+[\d,]+\s+steps?")
    ).wait_for()


def test_the_page_follows_the_traffic_with_the_numbers_of_the_server(live, page, texts):
    for text in texts[:3]:
        before = total_of(live, "champion")["requests"]
        request_id = live.new_id()
        live.ask(COMPLETIONS, prompt=text, max_tokens=24, request_id=request_id)
        recorded = live.records(request_id, 2)[0]["request_id"]
        wait_for_requests(page, before + 1)
    champion, shadow = total_of(live, "champion"), total_of(live, "shadow")
    page.locator("#positions summary").first.click()
    rows = page.locator("#positions details").first.locator("tbody tr")
    for position, row in enumerate(rows.all()):
        cells = [cell.replace("\xa0", " ") for cell in row.locator("td").all_inner_texts()]
        assert cells[:4] == [
            *rate_and_interval(champion, position),
            *rate_and_interval(shadow, position),
        ]
    assert f"{champion['tau']:.2f}" in page.locator("#headline").inner_text()
    # Ids are for the admin key only; the page reads with the other one.
    shown = hashlib.blake2b(recorded.encode(), digest_size=8).hexdigest()
    assert page.locator("#requests").get_by_text(shown).count() >= 1
    assert request_id not in page.locator("#requests").inner_text()
    page.locator("#positions-chart .main-svg").first.wait_for()


def test_the_page_promotes_with_the_admin_key_and_with_no_other(live, page):
    page.get_by_role("button", name=f"Promote {CHALLENGER}").click()
    page.get_by_label("Admin key").fill(API_KEY)
    page.locator("#admin-confirm").click()
    page.locator("#admin-dialog-error", has_text="admin key").wait_for()
    assert live.roles()[CHAMPION] == "champion"
    page.get_by_label("Admin key").fill(ADMIN_KEY)
    page.locator("#admin-confirm").click()
    page.locator("#admin-dialog").wait_for(state="hidden")
    assert live.roles() == {CHALLENGER: "champion", CHAMPION: "retired"}
    row = page.locator("#drafters tbody tr").filter(has_text=CHALLENGER)
    row.filter(has_text="champion").wait_for()


def test_the_page_opens_without_a_key_and_the_numbers_do_not(live):
    import httpx2

    with httpx2.Client(base_url=live.client.base_url, trust_env=False) as stranger:
        for path in ("/dpace/", "/dpace/static/app.js", "/dpace/static/plotly.min.js"):
            assert stranger.get(path).status_code == 200
        for path in ("/dpace/acceptance", "/dpace/drafters"):
            assert stranger.get(path).status_code == 401
        assert stranger.post("/dpace/").status_code == 401
