"""What an alert would be with one guard off: each is a mistake that the alert's tests must see."""

import re
from collections.abc import Iterator
from typing import Any

import promql_parser as promql

Rule = dict[str, Any]

# Text in quotes, ranges, durations and names are no numbers; what is left over is.
_TOKEN = re.compile(r'"[^"]*"|\[[^\]]*\]|\d+[smhd]\b|[A-Za-z_:][\w:]*|(?P<number>\d+(?:\.\d+)?)')
_MATCHER = re.compile(r'(?P<name>\w+)(?P<operator>=~|=)"(?P<values>[^"]*)",?')
_INCREASE = re.compile(r"increase\((?P<series>[^()\[\]]+)\[(?P<range>\w+)\]\)")


def mutants(rule: Rule) -> Iterator[tuple[str, Rule]]:
    """What was changed, and the changed rule."""
    for wait in _other_waits(rule):
        yield f"for {wait}", rule | {"for": wait}
    text = str(promql.parse(rule["expr"]))
    changes = (_numbers(text), _filters(text), _increases(text), _clauses(text))
    for what, changed in (one for kind in changes for one in kind):
        yield what, rule | {"expr": changed}


def _other_waits(rule: Rule) -> list[str]:
    if "for" not in rule:
        return []
    minutes = int(rule["for"].removesuffix("m"))
    return ["0m", f"{2 * minutes}m"]


def _numbers(text: str) -> Iterator[tuple[str, str]]:
    """Each number twice as big and half; a bound of 0 lets 0 in."""
    for found in _TOKEN.finditer(text):
        if found["number"] is None:
            continue
        before, after = text[: found.start()], text[found.end() :]
        if float(found["number"]) == 0:
            yield f"0 is enough at {found.start()}", f"{before.removesuffix('> ')}>= 0{after}"
            continue
        for factor in (2, 0.5):
            other = f"{factor * float(found['number']):g}"
            yield f"{found['number']} is {other} at {found.start()}", f"{before}{other}{after}"


def _filters(text: str) -> Iterator[tuple[str, str]]:
    """Each label filter left out, and each of its choices."""
    for found in _MATCHER.finditer(text):
        before, after = text[: found.start()], text[found.end() :]
        yield f"any {found['name']} at {found.start()}", f"{before}{after}".replace(",}", "}")
        choices = found["values"].split("|")
        for choice in choices if len(choices) > 1 else []:
            rest = "|".join(other for other in choices if other != choice)
            kept = found[0].replace(found["values"], rest)
            yield f"no {choice} at {found.start()}", f"{before}{kept}{after}"


def _increases(text: str) -> Iterator[tuple[str, str]]:
    """Each increase as a plain difference, which takes a restart for a fall."""
    for found in _INCREASE.finditer(text):
        difference = f"({found['series']} - {found['series']} offset {found['range']})"
        yield (
            f"restart unseen at {found.start()}",
            text[: found.start()] + difference + text[found.end() :],
        )


def _clauses(text: str) -> Iterator[tuple[str, str]]:
    """Each `and` or `unless` left out with what follows it."""
    for node in _nodes(promql.parse(text)):
        if str(node.op) in {"and", "unless"}:
            yield f"without {node.op} {node.rhs}", text.replace(str(node), str(node.lhs), 1)


def _nodes(node: Any) -> Iterator[promql.BinaryExpr]:
    for part in ("lhs", "rhs", "expr"):
        if hasattr(node, part):
            yield from _nodes(getattr(node, part))
    if isinstance(node, promql.BinaryExpr):
        yield node
