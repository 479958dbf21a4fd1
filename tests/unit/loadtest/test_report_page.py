"""The page of a run: everything in one file, nothing becomes markup, and a browser is content."""

import json
import re
from html.parser import HTMLParser

import pytest

from dpace_loadtest import report_html as page_module
from dpace_loadtest.report_html import report_html
from dpace_loadtest.run_result import run_result

from .made_rows import facts, record, row, service, slo  # noqa: TID252 - tests have no package

EVIL = '</script><img src="http://evil.example/x" onerror=alert(1)>'


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self._inside = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.words.append(data)

    def named(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self):
        return "".join(self.words)


def result(arms=("plain", "dpace"), loads=(1.0, 2.0), mode="open", workload="code", **others):
    """Two arms under two loads, 41 requests each, the second arm twice as fast."""
    rows, records = [], []
    for arm, seconds in zip(arms, (2.0, 1.0), strict=True):
        for load in loads:
            for number in range(41):
                name = f"{arm}-{load}-{number}"
                one = row(
                    number / load, arm=arm, load=load, ttft=0.01,
                    seconds=seconds * (0.1 + number / 1000),
                    response_id=name, prompt_key=f"p{number}", workload=workload,
                )  # fmt: skip
                rows.append(one)
                records.append(record(name, (2, number % 3)))
    services = [
        service(f"http://{arms[0]}", standing="no_drafter", facts=None),
        service(f"http://{arms[1]}", records),
    ]
    return run_result(facts(*arms, loads=loads, mode=mode, **others), rows, services)


def plots_of(text):
    found = re.findall(r'<script type="application/json" id="[^"]+">(.*?)</script>', text, re.S)
    return [json.loads(each) for each in found]


@pytest.fixture
def small_script(monkeypatch):
    monkeypatch.setattr(page_module, "_plotly_script", lambda: "/* plotly.js */")


def test_the_page_brings_plotly_and_fetches_nothing():
    text = report_html(result())
    assert len(text) > 1_000_000
    page = Page(text)
    assert all("src" not in attrs for attrs in page.named("script"))
    assert not page.named("img")
    assert page.named("link") == [{"rel": "icon", "href": "data:,"}]
    policy = next(attrs for attrs in page.named("meta") if "http-equiv" in attrs)
    assert policy["content"].startswith("default-src 'none'")
    assert "http" not in policy["content"]


@pytest.mark.parametrize("loads", [(1.0, 2.0), (1.0,)])
def test_no_text_of_a_file_or_server_becomes_markup(small_script, loads):
    evil = result(
        (EVIL, f"{EVIL}2"), loads, workload=EVIL, name=EVIL, prompt_hash=EVIL, started_at=EVIL,
        versions={EVIL: EVIL},
    )  # fmt: skip
    text = report_html(evil)
    page = Page(text)
    assert not page.named("img")
    assert EVIL in page.text
    assert "<img" not in text
    # Plotly reads a small HTML of its own in names, so they are escaped in its data too.
    names = json.dumps([plot["data"] for plot in plots_of(text)])
    assert "onerror" in names
    assert "<img" not in names


def test_the_numbers_of_the_run_stand_on_the_page(small_script):
    page = Page(report_html(result(slo=slo(ttft=0.2, share=0.9))))
    assert "2.00×" in page.text  # tokens/s of a request
    assert "41 prompts paired" in page.text
    assert "TTFT at most 200 ms, kept by at least 90.0% of the requests" in page.text
    assert "Open loop" in page.text
    assert "the server drafts nothing (82)" in page.text
    assert "or above 2 requests/s" in page.text


def test_a_closed_loop_is_said_in_plain_words(small_script):
    page = Page(report_html(result(mode="closed")))
    assert "CLOSED loop: each user waited" in page.text
    assert "waiting is hidden" in page.text
    assert "no knee. A closed loop offers no rate" in page.text


def test_what_is_unknown_is_a_dash_and_breaks_a_line(small_script):
    rows = [row(float(n), outcome="timeout") for n in range(3)]
    text = report_html(run_result(facts(), rows, []))
    assert "acceptance is unknown" in Page(text).text
    (ttft, *_) = plots_of(text)
    assert ttft["data"][0]["y"] == [None] * 4


def test_a_run_without_any_request_still_has_a_page(small_script):
    assert "No request of a was measured" in Page(report_html(run_result(facts(), [], []))).text


def test_acceptance_is_drawn_with_its_intervals(small_script):
    plots = plots_of(report_html(result()))
    (plot,) = [one for one in plots if one["layout"]["xaxis"]["title"]["text"] == "draft position"]
    (trace,) = plot["data"]
    # Of 41 requests at each load the first step accepts 2, the second 0, 1 or 2 (14, 14 and 13).
    assert trace["x"] == [1, 2, 3]
    assert trace["y"] == pytest.approx([(41 + 27) / 82, (41 + 13) / 82, 0])
    assert trace["error_y"]["array"][0] > 0
    assert trace["error_y"]["array"][2] is None  # at a rate of 0 no request differs from another


LOOKS = [("open", "light", 360, "rgb(246, 247, 249)"), ("closed", "dark", 1200, "rgb(14, 18, 24)")]


def test_a_browser_draws_it_without_a_complaint_or_a_request(open_browser, tmp_path):
    with open_browser() as browser:
        for mode, scheme, width, background in LOOKS:
            path = tmp_path / f"{mode}.html"
            one = result((EVIL, "dpace"), mode=mode, slo=slo(ttft=0.2, share=0.9), name=EVIL)
            path.write_text(report_html(one), encoding="utf-8")
            said, asked = [], []
            page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(path.as_uri())
            page.wait_for_function(
                "[...document.querySelectorAll('[data-plot]')]"
                ".every(plot => plot.querySelector('.main-svg'))"
            )
            assert said == []
            loaded = [url for url in asked if not url.startswith(("data:", "blob:"))]
            assert loaded == [path.as_uri()]
            assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == background
            assert page.locator("[data-plot] .main-svg").count() >= 10
