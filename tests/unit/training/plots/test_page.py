import json
import re
from html.parser import HTMLParser

import pytest

from dpace_training.plots import page as page_module
from dpace_training.plots.figure import Figure, Line, NumberTable, Panel
from dpace_training.plots.interactive import plot_fragment, plotly_script
from dpace_training.plots.page import html_page

EVIL = '</script><img src="http://evil.example/x" onerror=alert(1)>'


class Page(HTMLParser):
    """Tags with their attributes, and the text of table cells."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self._in_cell = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in_cell = tag in {"td", "th"}
        if self._in_cell:
            self.cells.append("")

    def handle_endtag(self, tag):
        self._in_cell = False

    def handle_data(self, data):
        if self._in_cell:
            self.cells[-1] += data

    def named(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def figure(name="f", text="plain"):
    line = Line(text, x=(1, 2), y=(3.5, None), colour="#0072b2", low=(3, None), high=(4, None))
    other = Line("other", x=(1, 2), y=(1.0, 2.0), colour="#d55e00", is_dashed=True)
    panel = Panel((line, other), f"{text} x", f"{text} y", title=text, y_names=(text,))
    table = NumberTable((text, "value"), ((text, "3.500"),))
    return Figure(name, text, f"{text} seen", (panel,), table)


@pytest.fixture
def small_script(monkeypatch):
    monkeypatch.setattr(page_module, "plotly_script", lambda: "/* plotly.js */")


def test_the_page_brings_plotly_and_fetches_nothing():
    text = html_page("t", "i", [figure()], [])
    assert plotly_script() in text
    assert len(plotly_script()) > 1_000_000
    page = Page(text)
    assert not page.named("link")
    assert not page.named("img")
    assert all("src" not in attrs for attrs in page.named("script"))
    policy = next(attrs for attrs in page.named("meta") if "http-equiv" in attrs)
    assert policy["content"].startswith("default-src 'none'")
    assert "http" not in policy["content"]


def test_every_figure_has_a_heading_a_description_and_its_numbers(small_script):
    page = Page(html_page("t", "i", [figure("a"), figure("b", "second")], []))
    labels = [attrs["aria-label"] for attrs in page.named("div") if attrs.get("role") == "img"]
    assert labels == ["plain. plain seen", "second. second seen"]
    assert page.cells == ["plain", "value", "plain", "3.500", "second", "value", "second", "3.500"]
    assert page.named("html") == [{"lang": "en"}]
    assert len(page.named("h2")) == 2


def test_no_text_becomes_markup(small_script):
    text = html_page(EVIL, EVIL, [figure("a", EVIL)], [(EVIL, NumberTable((EVIL,), ((EVIL,),)))])
    page = Page(text)
    assert not page.named("img")
    assert EVIL in page.cells
    # Plotly reads a small HTML of its own in labels, so that names arrive there escaped twice.
    assert "onerror" in text
    assert "<img" not in text


def test_a_plot_holds_the_points_and_where_they_break():
    fragment = plot_fragment(figure())
    data = json.loads(re.search(r'newPlot\(\s*"plot-f",\s*(\[.*?\]),\s*\{"', fragment, re.S)[1])
    line, band, other = data
    assert (line["x"], line["y"]) == ([1, 2], [3.5, None])
    assert (band["x"], band["y"]) == ([1, 1], [4, 3])
    assert band["fill"] == "toself"
    assert other["line"]["dash"] == "dash"
    assert [trace["showlegend"] for trace in data] == [True, False, True]


def test_no_button_of_a_plot_leads_to_a_web_site():
    buttons = re.search(r'"modeBarButtons": (\[\[.*?\]\])', plot_fragment(figure()))
    assert json.loads(buttons[1]) == [["toImage", "zoom2d", "pan2d", "resetScale2d"]]
