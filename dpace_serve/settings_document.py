"""Tables of all settings of `dpace serve` and `dpace tune` in Markdown, from their classes.

python -m dpace_serve.settings_document > dpace_serve/SETTINGS.md
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

from dpace_serve.config import Config
from dpace_serve.serve_config import ServeConfig
from dpace_serve.tuning.config import TuneConfig

HEADER = """\
# Settings

Written by `python -m dpace_serve.settings_document > dpace_serve/SETTINGS.md`.

Any of them can be given as `--set KEY=VALUE`, the value in YAML, and those of `dpace serve` in the
file of `--config` too. An unknown key is an error. One key of a section switches the section on.
"""

_TABLE = """
| key | type | default | meaning |
|---|---|---|---|
"""
_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "none",
}
_BOUNDS = {
    "minimum": "from {}",
    "exclusiveMinimum": "above {}",
    "maximum": "to {}",
    "exclusiveMaximum": "below {}",
    "minItems": "(at least {})",
}

Schema = dict[str, Any]


def document() -> str:
    """The whole page: the server's settings, its sections, and what tuning adds."""
    return HEADER + "".join(
        (*_tables(ServeConfig, "dpace serve"), *_tables(TuneConfig, "dpace tune", "serve"))
    )


def _tables(config: type[Config], title: str, *left_out: str) -> Iterator[str]:
    """The table of a class, then those of its sections, without the ones that stand elsewhere."""
    whole = config.model_json_schema()
    sections = {
        key: whole["$defs"][name]
        for key, schema in whole["properties"].items()
        if (name := _section_name(schema)) is not None and key not in left_out
    }
    yield _table(whole, f"`{title}`", "")
    for key, section in sections.items():
        yield _table(section, f"`{title}`: section `{key}`", f"{key}.")


def _table(schema: Schema, title: str, prefix: str) -> str:
    required = schema.get("required", ())
    about = " ".join(schema["description"].split())
    rows = (
        f"| `{prefix}{key}` | {_type(field)} | {_default(field, is_required=key in required)} "
        f"| {' '.join(field['description'].split())} |\n"
        for key, field in schema["properties"].items()
    )
    return f"\n## {title}\n\n{about}\n{_TABLE}{''.join(rows)}"


def _section_name(schema: Schema) -> str | None:
    choices = (schema, *schema.get("anyOf", ()))
    names = [choice["$ref"].rpartition("/")[2] for choice in choices if "$ref" in choice]
    return names[0] if names else None


def _type(schema: Schema) -> str:
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "$ref" in schema:
        return "section"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        word = f"list of {_type(schema['items'])}"
    elif schema["type"] == "object":
        word = f"mapping of names to {_type(schema['additionalProperties'])}"
    else:
        word = "path" if schema.get("format") == "path" else _WORDS[schema["type"]]
    bounds = (text.format(schema[key]) for key, text in _BOUNDS.items() if key in schema)
    return " ".join((word, *bounds))


def _default(schema: Schema, *, is_required: bool) -> str:
    if is_required:
        return "must be given"
    if _section_name(schema) is not None:
        return "off" if schema.get("default") is None else "as below"
    value = schema.get("default", {})  # pydantic leaves out what a factory makes: an empty mapping
    return "none" if value is None else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    sys.stdout.write(document())
