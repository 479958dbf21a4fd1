"""What a figure says, without how it is drawn: lines in panels, and the numbers as a table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

Number = int | float
Row = tuple[str, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Line:
    """Points in order; None breaks the line. Lines of one name share a place in the legend."""

    name: str
    x: tuple[Number | None, ...]
    y: tuple[Number | None, ...]
    colour: str
    low: tuple[Number | None, ...] = ()
    """Lower bounds of an interval around y, or nothing."""
    high: tuple[Number | None, ...] = ()
    """Upper bounds of that interval."""
    width: float = 2.0
    """Width of the line in points; 0 draws the markers alone."""
    is_dashed: bool = False
    has_markers: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes; labels carry the unit."""

    lines: tuple[Line, ...]
    x_label: str
    y_label: str
    title: str = ""
    y_scale: Literal["linear", "log"] = "linear"
    y_starts_at_zero: bool = False
    x_ticks: tuple[Number, ...] = ()
    """Places of the ticks, where the renderer must not choose."""
    y_names: Row = ()
    """Names of the rows 0, 1, ..., counted downwards, in place of a y axis of numbers."""
    x_reference: float | None = None
    """Where to draw a thin vertical line."""


@dataclass(frozen=True, slots=True)
class NumberTable:
    """The numbers of a figure, or facts, as text."""

    header: Row
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with what a reader without sight of it needs: description and table."""

    name: str
    """Stem of file names."""
    title: str
    description: str
    """One or two sentences that say what is to be seen."""
    panels: tuple[Panel, ...]
    table: NumberTable
    num_columns: int = 1
    panel_height: float = 3.4
    """Height of a panel in inches."""
    shares_axes: bool = False
    """Give all panels the same range, and names of axes at the left and at the bottom only."""

    def panel_at(self, index: int) -> Panel:
        """The panel as it is drawn: without the names of axes that its neighbours bear."""
        panel = self.panels[index]
        if not self.shares_axes:
            return panel
        is_left = index % self.num_columns == 0
        return replace(
            panel,
            x_label=panel.x_label if self.is_bottom(index) else "",
            y_label=panel.y_label if is_left else "",
        )

    def is_bottom(self, index: int) -> bool:
        """Whether no panel lies below this one."""
        return index + self.num_columns >= len(self.panels)

    @property
    def needs_legend(self) -> bool:
        """Whether a panel holds lines that only a legend tells apart."""
        return any(len({line.name for line in panel.lines}) > 1 for panel in self.panels)


def evenly_spread(items: Sequence[T], limit: int) -> list[T]:
    """At most `limit` (2 or more) of the items, first and last among them, in their order."""
    if len(items) <= limit:
        return list(items)
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def number_text(value: Number | None, digits: int = 3) -> str:
    """A number with a fixed count of decimals, or a dash for one that does not exist."""
    return "-" if value is None else f"{value:.{digits}f}"
