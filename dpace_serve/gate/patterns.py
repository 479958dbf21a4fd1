"""Regular expressions and grammars in what an answer must follow.

A matcher follows every way to read an answer at once. `(([a-z]{1,300}){1,300}){1,300}1` has so many
that the step after forty letters takes six seconds, in which the engine serves nobody, and no
deadline can end a step. Schemas without patterns have no such choice.
"""

import contextlib
import json
from typing import Any

_PATTERNS = ("pattern", "regex", "grammar", "ebnf", "ebnf_full_assistant", "whitespace_pattern")
_PATTERNS_AS_NAMES = "patternProperties"
_FREE_CHOICES = ("none", "auto")


def has_pattern(name: str, value: object) -> bool:
    """Whether a field, or anything in it, is a regular expression or a grammar.

    Args:
        name: Of the field.
        value: Of the field; schemas in it may be JSON in a string, as engines take them.
    """
    open_pairs: list[tuple[str, object]] = [(name, value)]
    while open_pairs:
        key, item = open_pairs.pop()
        if isinstance(item, str):
            if key in _PATTERNS:
                return bool(item)
            open_pairs.extend(_written(item))
        elif isinstance(item, list):
            open_pairs.extend(("", one) for one in item)
        elif isinstance(item, dict):
            if key == _PATTERNS_AS_NAMES and item:
                return True
            open_pairs.extend(item.items())
    return False


def follows_tools(values: dict[str, Any]) -> bool:
    """Whether an answer must follow the schemas of its tools, rather than may call one."""
    choice = values.get("tool_choice")
    return not (choice is None or choice in _FREE_CHOICES)


def _written(text: str) -> list[tuple[str, object]]:
    """The keys and values of JSON in a string, also those that another of their name hides."""
    if not text.lstrip().startswith(("{", "[")):
        return []
    pairs: list[tuple[str, object]] = []

    def note(found: list[tuple[str, object]]) -> dict[str, object]:
        pairs.extend(found)
        return dict(found)

    # What was found before an error counts: an engine may read more than we do.
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(text, object_pairs_hook=note)
    return pairs
