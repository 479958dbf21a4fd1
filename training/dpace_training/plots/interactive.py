"""Figures as interactive plots of plotly, as pieces of an HTML page."""

import html
import math

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from dpace_training.plots.figure import Figure, Line, Panel
from dpace_training.plots.look import NEUTRAL

PIXELS_PER_INCH = 96
PIXELS_PER_POINT = PIXELS_PER_INCH / 72
TOP_PIXELS, LEGEND_PIXELS = 70, 110
LOG_TICKS = tuple(digit * 10.0**power for power in range(-8, 9) for digit in (1, 2, 5))
BAND_OPACITY = 0.2
# The buttons are named one by one: some of plotly's others open a web site with the plot's data.
CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
}


def plotly_script() -> str:
    """The whole of plotly.js, so that a page needs no network."""
    return str(get_plotlyjs())


def plot_fragment(figure: Figure) -> str:
    """A `<div>` and the script that draws the figure into it; the page brings plotly.js."""
    num_rows = math.ceil(len(figure.panels) / figure.num_columns)
    drawn = make_subplots(
        rows=num_rows,
        cols=figure.num_columns,
        shared_xaxes="all" if figure.shares_axes else False,
        shared_yaxes="all" if figure.shares_axes else False,
        subplot_titles=[html.escape(panel.title) for panel in figure.panels],
        vertical_spacing=0.32 / num_rows,
        # Names of rows need more room than numbers.
        horizontal_spacing=(0.4 if figure.panels[0].y_names else 0.2) / figure.num_columns,
    )
    in_legend: set[str] = set()
    for index, panel in enumerate(figure.panels):
        row, column = divmod(index, figure.num_columns)
        for line in panel.lines:
            for trace in _traces(line, is_first=line.name not in in_legend):
                drawn.add_trace(trace, row=row + 1, col=column + 1)
            in_legend.add(line.name)
        _lay_out(drawn, figure.panel_at(index), row + 1, column + 1)
        if figure.is_bottom(index):
            drawn.update_xaxes(showticklabels=True, row=row + 1, col=column + 1)
    drawn.update_layout(
        height=round(num_rows * figure.panel_height * PIXELS_PER_INCH) + TOP_PIXELS + LEGEND_PIXELS,
        margin={"l": 60, "r": 20, "t": TOP_PIXELS, "b": LEGEND_PIXELS},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": NEUTRAL, "activecolor": NEUTRAL},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=figure.needs_legend,
        hovermode="x unified" if len(figure.panels) == 1 else "closest",
        template="none",
    )
    fragment = drawn.to_html(
        full_html=False, include_plotlyjs=False, div_id=f"plot-{figure.name}", config=CONFIG
    )
    return str(fragment)


def _traces(line: Line, *, is_first: bool) -> list[go.Scatter]:
    name = html.escape(line.name)
    traces = [
        go.Scatter(
            x=line.x,
            y=line.y,
            name=name,
            legendgroup=name,
            showlegend=is_first,
            mode=_mode(line),
            line={
                "color": line.colour,
                "width": line.width * PIXELS_PER_POINT,
                "dash": "dash" if line.is_dashed else "solid",
            },
            marker={"color": line.colour, "size": 7},
        )
    ]
    if line.low:
        # The band's outline runs there along the upper bounds and back along the lower ones.
        bounds = [
            (x, low, high)
            for x, low, high in zip(line.x, line.low, line.high, strict=True)
            if low is not None and high is not None
        ]
        traces.append(
            go.Scatter(
                x=[x for x, _, _ in bounds] + [x for x, _, _ in reversed(bounds)],
                y=[high for _, _, high in bounds] + [low for _, low, _ in reversed(bounds)],
                fill="toself",
                fillcolor=line.colour,
                opacity=BAND_OPACITY,
                line={"width": 0},
                mode="lines",
                hoverinfo="skip",
                legendgroup=name,
                showlegend=False,
            )
        )
    return traces


def _mode(line: Line) -> str:
    if not line.width:
        return "markers"
    return "lines+markers" if line.has_markers else "lines"


def _lay_out(drawn: go.Figure, panel: Panel, row: int, column: int) -> None:
    frame = {"gridcolor": NEUTRAL, "gridwidth": 0.3, "zeroline": False, "automargin": True}
    x_axis = {"title": html.escape(panel.x_label), **frame}
    y_axis = {"title": html.escape(panel.y_label), "type": panel.y_scale, **frame}
    if panel.y_scale == "log":
        # Plotly's own ticks between the powers of ten are single digits.
        y_axis |= {"tickvals": list(LOG_TICKS), "ticktext": [f"{tick:g}" for tick in LOG_TICKS]}
    if panel.x_ticks:
        x_axis |= {"tickvals": panel.x_ticks}
    if panel.y_starts_at_zero:
        y_axis |= {"rangemode": "tozero"}
    if panel.y_names:
        y_axis |= {
            "tickvals": list(range(len(panel.y_names))),
            "ticktext": [html.escape(name) for name in panel.y_names],
            "range": [len(panel.y_names) - 0.5, -0.5],
        }
    drawn.update_xaxes(x_axis, row=row, col=column)
    drawn.update_yaxes(y_axis, row=row, col=column)
    if panel.x_reference is not None:
        drawn.add_vline(
            panel.x_reference, row=row, col=column, line={"color": NEUTRAL, "dash": "dash"}
        )
