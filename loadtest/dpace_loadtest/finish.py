"""The end of a run: its report as JSON, HTML and joined rows, a summary, and the exit code."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dpace_loadtest.report_html import report_html
from dpace_loadtest.report_json import joined_row_dicts, report_json
from dpace_loadtest.row_json import read_rows
from dpace_loadtest.run_facts import RunFacts
from dpace_loadtest.run_result import run_result
from dpace_loadtest.run_verdict import RunVerdict
from dpace_loadtest.service import ServiceRecords
from dpace_loadtest.terminal_summary import terminal_summary
from dpace_serve.errors import ConfigError
from dpace_serve.result_file import write_json

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
JOINED_ROWS = "requests.jsonl"


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What is left of a run.

    Attributes:
        verdict: Whether it is good, with the reason and the exit code.
        report_json: The report for machines.
        report_html: The report for people.
        joined_rows: Every request with its acceptance records, one JSON object a line.
    """

    verdict: RunVerdict
    report_json: Path
    report_html: Path
    joined_rows: Path


def finish(
    facts: RunFacts,
    rows_path: Path,
    folder: Path,
    *,
    services: Sequence[ServiceRecords],
    console: Console,
) -> FinishedRun:
    """Join, summarise, write everything, and print the summary.

    Args:
        facts: What the run was.
        rows_path: Its rows, one JSON object a line; must not be `requests.jsonl` in `folder`.
        folder: Where the files go; must exist.
        services: What was read of the servers; empty where acceptance was not asked for.
        console: Where the summary goes.

    Raises:
        ConfigError: If the rows cannot be read or name an arm that the facts do not have, or a file
            cannot be written.
    """
    target = folder / JOINED_ROWS
    if rows_path.resolve() == target.resolve():
        raise ConfigError(
            f"{rows_path}: the joined rows are written there. Keep the raw rows under another name."
        )
    result = run_result(facts, list(read_rows(rows_path)), services)
    report = report_json(result)
    done = FinishedRun(result.verdict, folder / REPORT_JSON, folder / REPORT_HTML, target)
    _write(target, "".join(f"{json.dumps(row)}\n" for row in joined_row_dicts(result)))
    write_json(done.report_json, report)
    _write(done.report_html, report_html(result))
    console.print(terminal_summary(result))
    return done


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}). Choose another folder."
        ) from None
