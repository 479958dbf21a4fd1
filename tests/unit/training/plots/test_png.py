from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpace_serve.errors import ConfigError
from dpace_training.plots.figure import Figure, Line, NumberTable, Panel
from dpace_training.plots.output import write_pngs
from dpace_training.plots.png import write_png

BLUE = (0, 114, 178)


def figure(*panels, **changes):
    return Figure("f", "A $title$", "What is seen.", panels, NumberTable(("x",), ()), **changes)


def line(y, **changes):
    return Line("l", x=tuple(range(len(y))), y=tuple(y), colour="#0072b2", **changes)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def blue_rows(picture):
    is_blue = np.abs(picture - BLUE).sum(axis=-1) < 12
    return np.flatnonzero(is_blue.any(axis=1))


def test_a_png_carries_title_and_description_and_is_opaque(tmp_path):
    write_png(figure(Panel((line([1.0, 2.0]),), "x", "y")), tmp_path / "f.png")
    with Image.open(tmp_path / "f.png") as image:
        assert image.text == {"Title": "A $title$", "Description": "What is seen."}
        assert "transparency" not in image.info
    assert tuple(pixels(tmp_path / "f.png")[0, 0]) == (255, 255, 255)


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    panel = Panel((line([1.0, None, 3.0], low=(0.5, None, 2), high=(2.0, None, 4)),), "x", "y")
    for name in ("a.png", "b.png"):
        write_png(figure(panel), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_line_that_rises_higher_in_a_later_panel_is_not_cut(tmp_path):
    low = Panel((line([1.0, 1.0]),), "x", "y", y_starts_at_zero=True)
    high = Panel((line([10.0, 10.0]),), "x", "y", y_starts_at_zero=True)
    write_png(figure(low, high, shares_axes=True), tmp_path / "both.png")
    # Two level lines in two panels: two separate groups of blue rows.
    rows = blue_rows(pixels(tmp_path / "both.png"))
    assert (np.diff(rows) > 1).sum() == 1


def test_gaps_stay_gaps(tmp_path):
    for name, middle in (("whole.png", 1.0), ("gap.png", None)):
        write_png(figure(Panel((line([1.0, 1.0, middle, 1.0, 1.0]),), "x", "y")), tmp_path / name)
    counts = []
    for name in ("whole.png", "gap.png"):
        counts.append((np.abs(pixels(tmp_path / name) - BLUE).sum(axis=-1) < 12).sum())
    assert counts[1] == pytest.approx(counts[0] / 2, rel=0.1)


def test_a_file_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "plots").write_text("a file, not a folder")
    with pytest.raises(ConfigError, match=r"f\.png: cannot be written \(.*\)\. Free space"):
        write_pngs([figure(Panel((line([1.0]),), "x", "y"))], tmp_path / "plots", prefix="")


def test_names_get_the_prefix(tmp_path):
    paths = write_pngs([figure(Panel((line([1.0, 2.0]),), "x", "y"))], tmp_path, prefix="run-")
    assert paths == [tmp_path / "run-f.png"]
    assert list(Path(tmp_path).iterdir()) == paths
