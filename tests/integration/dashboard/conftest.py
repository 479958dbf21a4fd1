"""The page in a real browser before a scripted server; every test ends without a complaint."""

import contextlib
import re
import time
from urllib.parse import urlsplit

import pytest

from .scripted_json import Counted, comparison, history, speed, verdict  # noqa: TID252 - tests have no package
from .scripted_server import ScriptedServer  # noqa: TID252 - tests have no package

CHAMPION, CHALLENGER = "steady", "daring"
# Chromium says so of every answer of 400 and more, which the page asks for and deals with.
WAIT_SECONDS = 15
EXPECTED = "Failed to load resource"
WATCH_POLICY = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile}`);
});
"""


class OpenPage:
    """A tab on the page, and everything it complained of."""

    def __init__(self, page, server):
        self.page, self.server = page, server
        self.complaints, self.refused, self.asked = [], [], []
        page.add_init_script(WATCH_POLICY)
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._note_origin)

    def open(self):
        self.page.goto(self.server.url)
        return self

    def wait_for_numbers(self):
        self.page.locator('main[aria-busy="false"]').wait_for()
        return self

    def next_round(self, milliseconds=2_000):
        """Let the page's clock jump; it reads again then."""
        self.page.clock.fast_forward(milliseconds)

    def text(self, selector):
        return self.page.locator(selector).inner_text().replace("\xa0", " ")

    def wait_for_text(self, selector, text):
        self.page.locator(selector).filter(has_text=text).first.wait_for()

    def hold(self, pattern):
        """Let requests wait; gives the list of those that do, and a call that lets them go."""
        held = []

        def release():
            for route in held:
                route.continue_()
            self.page.unroute(pattern)

        def keep(route):
            held.append(route)

        self.page.route(pattern, keep)
        return held, release

    def wait_for_requests(self, count):
        start = re.compile(rf"^{count}\s+[\d,]+\s+steps?")
        self.page.locator("#headline dd").filter(has_text=start).wait_for()

    def wait_for_count(self, selector, count):
        self.wait_until("([s, n]) => document.querySelectorAll(s).length === n", [selector, count])

    def wait_until(self, condition, argument=None):
        # Asked from here: the page's policy forbids the browser's own way, which is `eval`.
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.page.evaluate(condition, argument):
            assert time.monotonic() < deadline, condition
            self.page.wait_for_timeout(20)

    def draw_charts(self):
        self.page.locator(".js-plotly-plot .main-svg").first.wait_for()
        return self

    def require_no_complaint(self):
        assert self.complaints == []
        assert self.page.evaluate("window.violations") == []

    def _note(self, message):
        if message.type in ("error", "warning"):
            (self.refused if EXPECTED in message.text else self.complaints).append(message.text)

    def _note_origin(self, request):
        asked, own = urlsplit(request.url), urlsplit(self.server.url)
        self.asked.append(asked.path.rpartition("/")[2])
        if (asked.scheme, asked.netloc) != (own.scheme, own.netloc):
            self.complaints.append(f"asked {request.url}")


@pytest.fixture(scope="module")
def browser(open_browser):
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def shared_server():
    server = ScriptedServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(shared_server):
    """The scripted server, answering nothing yet; a test that sets keys restarts it."""
    shared_server.clear()
    yield shared_server
    if shared_server.is_changed:
        shared_server.clear()
        shared_server.restart()


@pytest.fixture
def open_page(browser, server):
    """Open the page: `open_page(width=360)`; after the test nothing may have been complained of."""
    with contextlib.ExitStack() as stack:
        pages = []

        def open_one(*, width=1280, height=900, scheme="light", before=None, **context):
            made = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme, **context
            )
            stack.callback(made.close)
            page = made.new_page()
            page.set_default_timeout(15_000)
            page.clock.install()
            pages.append(OpenPage(page, server))
            if before is not None:
                before(pages[-1])
            return pages[-1].open()

        yield open_one
        for page in pages:
            page.require_no_complaint()


@pytest.fixture
def counted():
    """Forty requests of a champion with a challenger in its shadow."""
    counted = Counted(CHAMPION, CHALLENGER)
    counted.add(40)
    return counted


@pytest.fixture
def shadowed(server, counted):
    """The server with all that there is to show."""
    server.answers = {
        "acceptance": lambda: counted.acceptance(speed=speed()),
        "drafters": counted.drafters(),
        "verdict": verdict(CHAMPION, comparison(CHALLENGER, "promote", "lift")),
        "history": history(counted),
    }
    return server
