"""What every plot of the page is made of, as plotly.js takes it."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dpace_loadtest.report_style import NEUTRAL

Trace = dict[str, Any]
Layout = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plot:
    """One pair of axes.

    Attributes:
        title: What it shows.
        traces: For plotly.js.
        layout: For plotly.js.
        height_rem: Its height; none is the usual one.
    """

    title: str
    traces: tuple[Trace, ...]
    layout: Layout
    height_rem: float | None = None


def axes(x_label: str, y_label: str) -> Layout:
    """A layout with two axes from zero; labels are escaped here."""
    axis = {"gridcolor": NEUTRAL, "gridwidth": 0.3, "zeroline": False, "automargin": True}
    return {
        "xaxis": {"title": {"text": html.escape(x_label)}, "rangemode": "tozero", **axis},
        "yaxis": {"title": {"text": html.escape(y_label)}, "rangemode": "tozero", **axis},
        "margin": {"l": 50, "r": 12, "t": 28, "b": 45},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"size": 12},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": NEUTRAL, "activecolor": NEUTRAL},
        "showlegend": False,
        "hovermode": "x unified",
    }


def vertical(x: float, colour: str, dash: str) -> dict[str, Any]:
    """A thin line over the whole height."""
    line = {"color": colour, "dash": dash, "width": 1.5}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def level(y: float) -> dict[str, Any]:
    """A thin line over the whole width."""
    line = {"color": NEUTRAL, "dash": "dash", "width": 1}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": line}


def error_bars(rows: Sequence[tuple[float, float | None, float | None]]) -> dict[str, Any]:
    """Bars from (value, low, high); a point without an interval has none."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [None if high is None else high - value for value, _, high in rows],
        "arrayminus": [None if low is None else value - low for value, low, _ in rows],
        "thickness": 1.5,
        "width": 4,
    }
