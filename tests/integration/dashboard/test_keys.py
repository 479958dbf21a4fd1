"""Keys: asked for when they are needed, kept no longer than promised, sent nowhere else."""

import pytest

from .conftest import CHALLENGER, CHAMPION  # noqa: TID252 - tests have no package
from .scripted_json import comparison, revision_of, verdict  # noqa: TID252 - tests have no package
from .scripted_server import ADMIN_KEY, API_KEY  # noqa: TID252 - tests have no package

NO_STORAGE = """for (const name of ["sessionStorage", "localStorage"]) {
  Object.defineProperty(window, name, {
    get() { throw new DOMException("Access is denied for this document.", "SecurityError"); },
  });
}"""
STORED = "() => JSON.stringify([{...sessionStorage}, {...localStorage}, document.cookie])"


@pytest.fixture
def locked(shadowed):
    shadowed.keys = (API_KEY,)
    shadowed.restart()
    return shadowed


def give_key(page, key):
    page.page.get_by_label("API key", exact=True).fill(key)
    page.page.get_by_role("button", name="Show the numbers").click()


def open_change(page, change="Promote"):
    page.page.get_by_role("button", name=f"{change} {CHALLENGER}").click()
    page.page.locator("#admin-dialog[open]").wait_for()


def confirm(page, key, change="Promote"):
    page.page.get_by_label("Admin key").fill(key)
    page.page.get_by_role("button", name=change, exact=True).click()


def test_a_locked_server_asks_for_its_key_and_then_shows_the_numbers(locked, open_page):
    page = open_page()
    page.page.locator("#key-dialog[open]").wait_for()
    assert page.page.evaluate("() => document.activeElement.id") == "api-key"
    give_key(page, "a-wrong-key")
    page.wait_for_text("#key-dialog-error", "did not accept that key")
    give_key(page, API_KEY)
    page.wait_for_requests(40)
    assert page.page.locator("#key-dialog").is_hidden()


def test_the_api_key_lasts_as_long_as_the_tab_and_can_be_forgotten(locked, open_page):
    page = open_page()
    give_key(page, API_KEY)
    page.wait_for_requests(40)
    in_session, in_local, cookies = page.page.evaluate(
        "() => [{...sessionStorage}, {...localStorage}, document.cookie]"
    )
    assert list(in_session.values()) == [API_KEY]
    assert (in_local, cookies) == ({}, "")
    page.page.reload()
    page.wait_for_requests(40)
    page.page.get_by_role("button", name="Forget key").click()
    page.page.locator("#key-dialog[open]").wait_for()
    assert API_KEY not in page.page.evaluate(STORED)


def test_where_nothing_may_be_stored_the_key_is_kept_in_memory(locked, counted, open_page):
    page = open_page(before=lambda page: page.page.add_init_script(NO_STORAGE))
    page.page.locator("#key-dialog[open]").wait_for()
    give_key(page, API_KEY)
    page.wait_for_requests(40)
    counted.add(2)
    page.next_round()
    page.wait_for_requests(42)
    assert page.page.locator("#key-dialog").is_hidden()
    page.page.get_by_role("button", name="Forget key").click()
    page.page.locator("#key-dialog[open]").wait_for()


def test_where_nothing_may_be_stored_an_open_server_shows_its_numbers(shadowed, open_page):
    page = open_page(before=lambda page: page.page.add_init_script(NO_STORAGE)).wait_for_numbers()
    assert "Live" in page.text("#connection")


def test_who_closes_the_question_for_the_key_can_come_back_to_it(locked, open_page):
    page = open_page()
    page.page.locator("#key-dialog[open]").wait_for()
    page.page.keyboard.press("Escape")
    page.wait_for_text("#banner", "The server asks for its API key")
    assert "Loading" in page.text("#headline")
    page.page.get_by_role("button", name="Enter the key").click()
    give_key(page, API_KEY)
    page.wait_for_requests(40)
    assert page.page.locator("#banner").is_hidden()


def test_a_promotion_is_sent_with_the_admin_key_the_name_and_the_revision(shadowed, open_page):
    page = open_page().wait_for_numbers()
    open_change(page)
    assert f"Make {CHALLENGER} the champion?" in page.text("#admin-dialog")
    confirm(page, ADMIN_KEY)
    page.page.locator("#admin-dialog").wait_for(state="hidden")
    meant = {"name": CHALLENGER, "revision": revision_of(CHALLENGER)}
    assert shadowed.changes == [["promote", meant]]
    page.wait_for_text("#announcements", "Promote daring: done.")


def test_a_challenger_is_dropped_by_its_name_and_revision(shadowed, open_page):
    page = open_page().wait_for_numbers()
    open_change(page, "Drop")
    confirm(page, ADMIN_KEY, "Drop")
    page.page.locator("#admin-dialog").wait_for(state="hidden")
    meant = {"name": CHALLENGER, "revision": revision_of(CHALLENGER)}
    assert shadowed.changes == [["drop", meant]]


def test_what_is_promoted_is_what_the_question_showed_also_if_its_name_has_passed_on(
    shadowed, open_page
):
    page = open_page().wait_for_numbers()
    open_change(page)
    seen = revision_of(CHALLENGER)
    assert f"Revision {seen}." in page.text("#admin-dialog")
    successor = comparison(CHALLENGER)
    successor["challenger"]["revision"] = "0f0f0f0f0f0f"
    shadowed.answers["verdict"] = verdict(CHAMPION, successor)
    page.next_round()
    page.page.locator(".verdict code", has_text="0f0f0f0f").wait_for()
    confirm(page, ADMIN_KEY)
    page.page.locator("#admin-dialog").wait_for(state="hidden")
    assert shadowed.changes == [["promote", {"name": CHALLENGER, "revision": seen}]]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, "this server has no spare slot for drafters."),
        (409, "one change of the drafters must end before the next, and one is under way."),
        (422, "there are several challengers: a, b. Name one."),
    ],
)
def test_a_refusal_is_shown_in_the_words_of_the_server(shadowed, open_page, status, message):
    shadowed.refusal = (status, message)
    page = open_page().wait_for_numbers()
    open_change(page)
    confirm(page, ADMIN_KEY)
    page.wait_for_text("#admin-dialog-error", message)
    assert page.page.locator("#admin-dialog").is_visible()
    shadowed.refusal = None
    confirm(page, ADMIN_KEY)  # and one can try again
    page.page.locator("#admin-dialog").wait_for(state="hidden")


def test_a_wrong_admin_key_is_refused_and_forgotten(shadowed, open_page):
    page = open_page().wait_for_numbers()
    open_change(page)
    confirm(page, "a-wrong-key")
    page.wait_for_text("#admin-dialog-error", "This route needs the server's admin key")
    page.page.get_by_role("button", name="Cancel").click()
    open_change(page)
    assert page.page.get_by_label("Admin key").input_value() == ""
    assert shadowed.changes == []


def test_a_server_without_an_admin_key_says_that_nothing_can_be_changed(shadowed, open_page):
    shadowed.admin_key = None
    shadowed.restart()
    page = open_page().wait_for_numbers()
    open_change(page)
    confirm(page, "any")
    page.wait_for_text("#admin-dialog-error", "This server has no admin key")


def test_a_server_that_goes_away_meanwhile_leaves_it_open_what_happened(shadowed, open_page):
    page = open_page().wait_for_numbers()
    open_change(page)
    with shadowed.away():
        confirm(page, ADMIN_KEY)
        page.wait_for_text("#admin-dialog-error", "Look at the drafters before you try again")


def test_the_admin_key_is_in_memory_only(shadowed, open_page):
    page = open_page().wait_for_numbers()
    open_change(page)
    confirm(page, ADMIN_KEY)
    page.page.locator("#admin-dialog").wait_for(state="hidden")
    assert ADMIN_KEY not in page.page.evaluate(STORED)
    assert page.page.locator("#admin-key").input_value() == ""
    open_change(page, "Drop")  # known for the next change
    assert page.page.get_by_label("Admin key").input_value() == ADMIN_KEY
    page.page.reload()
    page.wait_for_numbers()
    open_change(page)
    assert page.page.get_by_label("Admin key").input_value() == ""


def test_the_focus_stays_in_a_dialog_and_returns_to_its_button(shadowed, open_page):
    page = open_page().wait_for_numbers()
    button = page.page.get_by_role("button", name=f"Promote {CHALLENGER}")
    button.focus()
    page.page.keyboard.press("Enter")
    page.page.locator("#admin-dialog[open]").wait_for()
    inside = "() => document.activeElement.closest('dialog') !== null"
    seen = []
    for _ in range(4):
        seen.append(page.page.evaluate("() => document.activeElement.id"))
        page.page.keyboard.press("Tab")
        # The browser's own bar may come between; the page's other parts may not.
        is_outside = "() => document.activeElement !== document.body"
        assert page.page.evaluate(inside) or not page.page.evaluate(is_outside)
    assert seen[:3] == ["admin-key", "admin-cancel", "admin-confirm"]
    page.page.keyboard.press("Escape")
    page.page.locator("#admin-dialog").wait_for(state="hidden")
    assert page.page.evaluate("() => document.activeElement.dataset.change") == "promote"
