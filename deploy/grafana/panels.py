"""Panels of the dashboards: titled, described, in units, with the datasource left to a variable."""

from collections.abc import Sequence
from typing import NamedTuple

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    table,
    text,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH = 24
"""Columns of Grafana's grid."""

Panel = stat.Panel | timeseries.Panel | bargauge.Panel | table.Panel


class Query(NamedTuple):
    """An expression and the legend of its series."""

    expr: str
    legend: str = ""


class Look(NamedTuple):
    """How values are shown.

    Attributes:
        unit: Grafana's id of the unit.
        decimals: Digits behind the point; None leaves it to Grafana.
        low: Value of the axis' lower end.
        high: Value of its upper end.
        warn_below: Values below it are red; None colours nothing.
        warn_above: Values above it are red.
    """

    unit: str = "short"
    decimals: int | None = None
    low: float | None = None
    high: float | None = None
    warn_below: float | None = None
    warn_above: float | None = None


SHARE = Look(unit="percentunit", low=0, high=1)
TAU = Look(unit="short", decimals=2, low=1)
RATE = Look(unit="cps", low=0)
LIFT = Look(unit="percentunit", decimals=1)


def number(title: str, means: str, query: Query, look: Look, *, width: int = 4) -> stat.Panel:
    """One number: the newest value of a query."""
    panel = stat.Panel().graph_mode(common_models.BigValueGraphMode.AREA)
    return _finish(panel, title, means, [query], look, (width, 4))


def lines(
    title: str, means: str, queries: Sequence[Query], look: Look, *, width: int = 12
) -> timeseries.Panel:
    """Values over time."""
    legend = (
        common.VizLegendOptions()
        .display_mode(common_models.LegendDisplayMode.TABLE)
        .placement(common_models.LegendPlacement.BOTTOM)
        .show_legend(show_legend=True)
        .calcs(["lastNotNull"])
    )
    panel = timeseries.Panel().legend(legend).fill_opacity(0).line_width(1)
    if look.warn_below is not None or look.warn_above is not None:
        panel = panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_models.GraphTresholdsStyleMode.LINE)
        )
    return _finish(panel, title, means, queries, look, (width, 8))


def bars(
    title: str, means: str, query: Query, look: Look, *, width: int = 12, height: int = 8
) -> bargauge.Panel:
    """One bar for each series, over the whole time range."""
    panel = (
        bargauge.Panel()
        .display_mode(common_models.BarGaugeDisplayMode.BASIC)
        .orientation(common_models.VizOrientation.HORIZONTAL)
    )
    return _finish(panel, title, means, [query], look, (width, height), instant=True)


def rows(title: str, means: str, query: Query, *, width: int = 12) -> table.Panel:
    """Labels of the series that exist now, as a table."""
    return _finish(table.Panel(), title, means, [query], Look(), (width, 8), instant=True)


def note(title: str, content: str, *, width: int = WIDTH, height: int = 4) -> text.Panel:
    """A text in Markdown."""
    return text.Panel().title(title).content(content).span(width).height(height)


def _finish(
    panel: Panel,
    title: str,
    means: str,
    queries: Sequence[Query],
    look: Look,
    size: tuple[int, int],
    *,
    instant: bool = False,
) -> Panel:
    width, height = size
    panel = panel.title(title).description(means).datasource(DATASOURCE).span(width).height(height)
    panel = panel.unit(look.unit).thresholds(_thresholds(look))
    if look.decimals is not None:
        panel = panel.decimals(look.decimals)
    if look.low is not None:
        panel = panel.min(look.low)
    if look.high is not None:
        panel = panel.max(look.high)
    for index, query in enumerate(queries):
        panel = panel.with_target(_target(query, chr(ord("A") + index), instant, panel))
    return panel


def _target(
    query: Query, ref_id: str, instant: bool, panel: Panel
) -> Builder[prometheus.Dataquery]:
    target = prometheus.Dataquery().expr(query.expr).ref_id(ref_id)
    target = target.legend_format(query.legend) if query.legend else target
    if isinstance(panel, table.Panel):
        target = target.format(PromQueryFormat.TABLE)
    return target.instant() if instant else target.range()


def _thresholds(look: Look) -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(value=None, color="green")]
    if look.warn_below is not None:
        steps = [
            models.Threshold(value=None, color="red"),
            models.Threshold(value=look.warn_below, color="green"),
        ]
    if look.warn_above is not None:
        steps.append(models.Threshold(value=look.warn_above, color="red"))
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)
