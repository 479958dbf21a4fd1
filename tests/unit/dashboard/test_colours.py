"""Colours can be read: the contrast of WCAG 2.2, computed from the tokens, on light and on dark."""

import re
from pathlib import Path

import pytest

from dpace_serve.dashboard import files

TOKENS = (Path(files.__file__).parent / "static" / "tokens.css").read_text(encoding="utf-8")
PAIRS = {
    name: (light, dark)
    for name, light, dark in re.findall(
        r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", TOKENS
    )
}
TEXT, NOT_TEXT = 4.5, 3.0
SURFACES = ("page", "surface", "sunken")


def luminance(colour):
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_the_contrast_is_that_of_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("front", "back", "least"),
    [
        *[(text, surface, TEXT) for text in ("text", "muted") for surface in SURFACES],
        *[(f"series-{number}", "surface", TEXT) for number in range(1, 5)],
        *[(word, f"{word}-wash", TEXT) for word in ("promote", "hold", "rollback")],
        ("rollback", "surface", TEXT),
        ("text", "rollback-wash", TEXT),
        ("on-action", "action", TEXT),
        ("edge", "surface", NOT_TEXT),
        *[("focus", surface, NOT_TEXT) for surface in SURFACES],
    ],
)
def test_it_can_be_read(front, back, least, theme):
    assert contrast(PAIRS[front][theme], PAIRS[back][theme]) >= least
