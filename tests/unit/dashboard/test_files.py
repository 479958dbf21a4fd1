"""What the live page is made of: every file small, nothing inline, nothing from elsewhere."""

import re
from pathlib import Path

import pytest

from dpace_serve.dashboard import files
from dpace_serve.dashboard.files import PAGE, PLOTLY, read_files

FOLDER = Path(files.__file__).parent / "static"
OWN = sorted(path.name for path in FOLDER.iterdir())
NOT_SOURCES = ("http://www.w3.org/2000/svg",)


def text_of(name):
    return (FOLDER / name).read_text(encoding="utf-8")


def test_all_files_of_the_folder_and_plotly_are_served():
    assert set(read_files()) == {*OWN, PLOTLY}


def test_plotly_is_the_file_of_the_installed_package():
    plotly = pytest.importorskip("plotly")
    shipped = Path(plotly.__file__).parent / "package_data" / PLOTLY
    assert read_files()[PLOTLY].content == shipped.read_bytes()


def test_without_plotly_the_page_is_still_there_and_the_log_says_so(monkeypatch, caplog):
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    found = read_files()
    assert PAGE in found
    assert PLOTLY not in found
    assert "Install plotly" in caplog.text


def test_different_contents_have_different_tags():
    tags = [file.etag for file in read_files().values()]
    assert len(set(tags)) == len(tags)


@pytest.mark.parametrize("name", [name for name in OWN if name != "icon.svg"])
def test_a_file_is_short_and_names_no_other_origin(name):
    text = text_of(name)
    assert len(text.splitlines()) < 300
    addresses = re.findall(r"(?:https?:)?//[\w.]+\.\w+[^\s\"']*", text)
    assert [address for address in addresses if address not in NOT_SOURCES] == []


def test_the_page_has_no_inline_script_style_or_handler():
    page = text_of(PAGE)
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page))


@pytest.mark.parametrize("name", [name for name in OWN if name.endswith(".js")])
def test_no_script_writes_markup_or_runs_text(name):
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function"
    assert not re.search(forbidden, text_of(name))


@pytest.mark.parametrize("name", [name for name in OWN if name.endswith(".js")])
def test_a_script_imports_files_that_exist(name):
    imported = re.findall(r'from "\./([^"]+)"', text_of(name))
    assert set(imported) <= set(OWN)


def test_every_colour_of_a_style_sheet_comes_from_the_tokens():
    for name in ("layout.css", "parts.css", "charts.css"):
        assert re.findall(r"#[0-9a-f]{3,8}\b", text_of(name)) == [], name
