"""The verdicts of a server as tables for a terminal."""

import time
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_SIGNS = {
    "promote": ("▲ promote", "green"),
    "hold": ("● hold", "yellow"),
    "rollback": ("▼ rollback", "red"),
}


def verdict_view(answer: dict[str, Any]) -> RenderableType:
    """The answer of `GET /dpace/verdict`, one block for each challenger."""
    champion = answer["champion"]
    if champion is None or not answer["comparisons"]:
        return Text("no challenger is compared")
    blocks: list[RenderableType] = []
    for row in answer["comparisons"]:
        blocks += [_headline(champion, row), _numbers(row)]
        if row["positions"]:
            blocks.append(_positions(row))
    blocks.append(Text(f"at {_clock(answer['time'])}", style="dim"))
    return Group(*blocks)


def away_view(answer: dict[str, Any], error: str) -> RenderableType:
    """The last answer, and why there is no newer one."""
    return Group(verdict_view(answer), Text(f"{error} Trying again.", style="red"))


def _headline(champion: dict[str, str], row: dict[str, Any]) -> Text:
    sign, colour = _SIGNS[row["decision"]]
    challenger = row["challenger"]
    # Names come from folders of the server: they must not be read as markup.
    return Text.assemble(
        (sign, f"bold {colour}"),
        f"  {challenger['name']} ({challenger['revision']}) against ",
        f"{champion['name']} ({champion['revision']}), {row['design']}\n",
        row["reason"],
    )


def _numbers(row: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column()
    requests, tau = row["requests"], row["tau"]
    table.add_row(
        "requests", f"champion {requests['champion']:,}, challenger {requests['challenger']:,}"
    )
    if row["effect"]:
        table.add_row("tokens/s", _lift(row["effect"]))
    if tau:
        table.add_row("tau, champion", _tau(tau["champion"]))
        table.add_row("tau, challenger", _tau(tau["challenger"]))
        table.add_row("tau, lift", _lift(tau))
    if row["more_requests"] is not None:
        table.add_row("to decide", f"about {row['more_requests']:,} more requests")
    return table


def _positions(row: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("position", "champion", "challenger", "difference"):
        table.add_column(title, justify="right")
    for position in row["positions"]:
        table.add_row(
            str(position["position"]),
            f"{position['champion']:.3f}",
            f"{position['challenger']:.3f}",
            f"{position['difference']:+.3f} [{position['low']:+.3f}, {position['high']:+.3f}]",
        )
    return table


def _lift(row: dict[str, float]) -> str:
    return f"{row['lift']:+.1%} [{row['low']:+.1%}, {row['high']:+.1%}]"


def _tau(row: dict[str, float]) -> str:
    return f"{row['tau']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))
