"""The `dpace loadtest` command: parses, calls one function, prints."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from dpace_serve.command_line import JsonOption, log_to_stderr, overrides
from dpace_serve.config import load_config
from dpace_serve.errors import ConfigError
from dpace_serve.result_file import require_writable

app = typer.Typer(no_args_is_help=True)


@app.command()
def loadtest(
    scenario: Annotated[Path, typer.Option(metavar="FILE", help="YAML file of the load test.")],
    url: Annotated[
        str | None, typer.Option(help="Server of the arms that name none of their own.")
    ] = None,
    json_file: JsonOption = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with plots.")
    ] = None,
    rows_file: Annotated[
        Path | None, typer.Option("--rows", metavar="FILE", help="Keep a JSON line per request.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="Settings that replace the file's.", metavar="[KEY=VALUE]..."),
    ] = None,
) -> None:
    """Send traffic to a server, and report latency beside acceptance.

    Exits with 1 if an objective was missed, or if the generator itself was too slow.
    """
    if find_spec("locust") is None:
        raise ConfigError(
            "dpace loadtest needs locust, which is not installed. "
            "Install it: pip install 'dpace-serve[loadtest]'."
        )
    log_to_stderr()
    from rich.console import Console

    from dpace_loadtest.reported_run import ReportFiles, reported_run
    from dpace_loadtest.scenario import ScenarioConfig

    for path in (json_file, html_file, rows_file):
        require_writable(path)
    verdict = reported_run(
        load_config(ScenarioConfig, scenario, [*overrides({"url": url}), *(settings or [])]),
        scenario.stem,
        ReportFiles(json_file, html_file, rows_file),
        Console(highlight=False),
    )
    raise typer.Exit(verdict.exit_code)
