import pytest

from dpace_training.plots.figure import Figure, Line, NumberTable, Panel, evenly_spread
from dpace_training.plots.look import ordered_colours


def small(num_panels, **changes):
    panels = tuple(
        Panel((Line("a", x=(1, 2), y=(1.0, 2.0), colour="#0072b2"),), "x", "y")
        for _ in range(num_panels)
    )
    table = NumberTable(("x",), (("1",),))
    return Figure("f", "Title", "Words.", panels, table, **changes)


@pytest.mark.parametrize(
    ("count", "limit", "expected"),
    [(3, 5, [0, 1, 2]), (5, 3, [0, 2, 4]), (101, 2, [0, 100]), (4, 3, [0, 2, 3])],
)
def test_thinning_keeps_the_first_and_the_last(count, limit, expected):
    assert evenly_spread(range(count), limit) == expected


def test_panels_that_share_axes_name_them_at_the_edge_only():
    figure = small(3, num_columns=2, shares_axes=True)
    assert [figure.panel_at(i).y_label for i in range(3)] == ["y", "", "y"]
    # Nothing lies below the second panel, so it needs its own name.
    assert [figure.panel_at(i).x_label for i in range(3)] == ["", "x", "x"]
    assert small(3, num_columns=2).panel_at(1).y_label == "y"


def test_one_line_in_each_panel_needs_no_legend():
    assert not small(2).needs_legend
    lines = tuple(Line(name, x=(1,), y=(1.0,), colour="#000000") for name in "ab")
    both = Figure("f", "t", "d", (Panel(lines, "x", "y"),), NumberTable((), ()))
    assert both.needs_legend


@pytest.mark.parametrize("count", [0, 1, 7, 15])
def test_ordered_colours_differ(count):
    assert len(set(ordered_colours(count))) == count


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_order_of_colours_shows_without_hue():
    lights = [luminance(colour) for colour in ordered_colours(15)]
    assert lights == sorted(lights)
