"""Figures as PNG files, drawn by matplotlib without a display or any global state."""

import io
import math
from pathlib import Path

import matplotlib.figure
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dpace_training.plots.figure import Figure, Line, Number, Panel
from dpace_training.plots.look import NEUTRAL

# Opaque paper: a transparent file would lose its black text on a dark page.
PAPER, TEXT, GRID = "#ffffff", "#24292f", "#d8dee4"
WIDTH_INCHES = 9.0
LEGEND_COLUMNS = 8
MAX_TICKS = 12
NUM_COLOURS = 128
DPI = 144


def write_png(figure: Figure, path: Path) -> None:
    """Draw a figure into a PNG file that carries its title and description."""
    num_rows = math.ceil(len(figure.panels) / figure.num_columns)
    drawn = matplotlib.figure.Figure(
        figsize=(WIDTH_INCHES, num_rows * figure.panel_height + 0.9),
        dpi=DPI,
        layout="constrained",
        facecolor=PAPER,
    )
    places = drawn.subplots(
        num_rows,
        figure.num_columns,
        squeeze=False,
        sharex=figure.shares_axes,
        sharey=figure.shares_axes,
    ).flatten()
    for index, axes in enumerate(places):
        if index >= len(figure.panels):
            axes.set_visible(False)
            continue
        _draw_panel(axes, figure.panel_at(index), num_ticks=MAX_TICKS // figure.num_columns)
        if figure.is_bottom(index):
            axes.tick_params(labelbottom=True)
    # A limit ends autoscaling, in panels that share the axis too: so it comes after all lines.
    for axes, panel in zip(places, figure.panels, strict=False):
        if panel.y_starts_at_zero:
            axes.set_ylim(bottom=0)
    drawn.suptitle(_plain(figure.title), color=TEXT, fontsize=13, fontweight="bold")
    if figure.needs_legend:
        _draw_legend(drawn)
    full_colour = io.BytesIO()
    drawn.savefig(full_colour, format="png")
    words = PngInfo()
    words.add_itxt("Title", figure.title)
    words.add_itxt("Description", figure.description)
    # A palette makes the file a quarter of the size; these files are kept in repositories.
    with Image.open(full_colour) as image:
        image.convert("RGB").quantize(NUM_COLOURS, dither=Image.Dither.NONE).save(
            path, format="png", optimize=True, pnginfo=words
        )


def _draw_panel(axes: Axes, panel: Panel, *, num_ticks: int) -> None:
    axes.set_facecolor(PAPER)
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(NEUTRAL)
    axes.tick_params(colors=TEXT, labelsize=9)
    axes.set_xlabel(_plain(panel.x_label), color=TEXT)
    axes.set_ylabel(_plain(panel.y_label), color=TEXT)
    axes.set_title(_plain(panel.title), color=TEXT, fontsize=10)
    for line in panel.lines:
        _draw_line(axes, line)
    if panel.x_reference is not None:
        axes.axvline(panel.x_reference, color=NEUTRAL, linewidth=1.2, linestyle="--")
    if panel.y_scale == "log":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    if panel.x_ticks:
        axes.set_xticks(panel.x_ticks)
    elif panel.x_reference is None:
        axes.xaxis.set_major_locator(
            MaxNLocator(nbins=num_ticks, integer=True, steps=[1, 2, 5, 10])
        )
    if panel.y_names:
        axes.set_yticks(range(len(panel.y_names)), [_plain(name) for name in panel.y_names])
        axes.set_ylim(len(panel.y_names) - 0.5, -0.5)


def _draw_line(axes: Axes, line: Line) -> None:
    x, y = _floats(line.x), _floats(line.y)
    if line.low:
        axes.fill_between(
            x, _floats(line.low), _floats(line.high), color=line.colour, alpha=0.2, linewidth=0
        )
    style = "--" if line.is_dashed else "-"
    axes.plot(
        x,
        y,
        color=line.colour,
        label=_plain(line.name),
        linewidth=line.width,
        linestyle=style if line.width else "none",
        marker="o" if line.has_markers else "",
        markersize=5,
        solid_capstyle="butt",
    )


def _draw_legend(drawn: matplotlib.figure.Figure) -> None:
    handles: dict[str, Artist] = {}
    for axes in drawn.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    drawn.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=min(len(handles), LEGEND_COLUMNS),
        frameon=False,
        labelcolor=TEXT,
        fontsize=9,
    )


def _floats(values: tuple[Number | None, ...]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _plain(text: str) -> str:
    # A pair of dollar signs in a name would start a formula.
    return text.replace("$", r"\$")
