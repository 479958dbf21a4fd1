"""`dpace report`: the course of a run as a page and as PNG files, from what lies in its folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dpace_serve.errors import ConfigError
from dpace_serve.outside_text import MAX_SETTINGS_BYTES, read_text
from dpace_serve.settings_yaml import parse_yaml
from dpace_training.fit.checkpoint import CONFIG_FILE, FACTS_FILE
from dpace_training.fit.figures import run_figures
from dpace_training.fit.history import TrainingHistory, read_history
from dpace_training.plots.figure import NumberTable
from dpace_training.plots.output import write_page, write_pngs
from dpace_training.plots.page import html_page

REPORT_FILE = "report.html"
PLOTS_FOLDER = "plots"


def write_report(output: Path) -> Path:
    """Write `report.html` and `plots/*.png` into the folder of a run, finished or cut.

    The log alone is enough. Configuration and facts are shown where the run has written them.

    Returns:
        The page.

    Raises:
        ConfigError: If the folder holds no training log, or a file is damaged or not writable.
    """
    history = read_history(output)
    figures = run_figures(history)
    facts = _mapping(output / FACTS_FILE)
    tables = [
        (heading, _fact_table(values))
        for heading, values in (
            ("Facts", {key: value for key, value in facts.items() if key != "evaluation"}),
            ("Configuration", _mapping(output / CONFIG_FILE)),
        )
        if values
    ]
    write_pngs(figures, output / PLOTS_FOLDER, prefix="")
    page = html_page(
        f"Training of {output.resolve().name}", _introduction(history, facts), figures, tables
    )
    write_page(output / REPORT_FILE, page)
    return output / REPORT_FILE


def dotted_values(values: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested settings under dotted keys, as overrides are written; lists stay whole."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= dotted_values(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _introduction(history: TrainingHistory, facts: Mapping[str, Any]) -> str:
    if facts.get("steps") == history.last_step:
        state = f"Finished after {history.last_step} steps."
    else:
        state = f"Not finished: the log ends after step {history.last_step}."
    if not history.evaluations:
        state += " There was no evaluation on held-out prompts, so tau is not known."
    return state


def _fact_table(values: Mapping[str, Any]) -> NumberTable:
    rows = tuple((key, _value_text(value)) for key, value in dotted_values(values).items())
    return NumberTable(("name", "value"), rows)


def _value_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _mapping(path: Path) -> dict[str, Any]:
    """A YAML or JSON file with a mapping, or nothing if it is not there."""
    if not path.exists():
        return {}
    try:
        values = parse_yaml(read_text(path, max_bytes=MAX_SETTINGS_BYTES))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: cannot be read ({reason}). Delete or restore it.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold a mapping. Delete or restore it.")
    return values
