"""What a load test ends with, on the terminal and in files."""

import dataclasses
from pathlib import Path

import typer

from dpace_loadtest.row_file import read_rows
from dpace_loadtest.run_record import RunRecord
from dpace_loadtest.saturation import percentile
from dpace_loadtest.scenario import ScenarioConfig
from dpace_serve.errors import ConfigError
from dpace_serve.result_file import write_json


def finish(
    scenario: ScenarioConfig,
    record: RunRecord,
    rows: Path,
    *,
    json_file: Path | None,
    html_file: Path | None,
) -> bool:
    """Report a run, and say whether it kept its objectives.

    Args:
        scenario: What was run, with all overrides.
        record: When each cell ran, and how the generator did.
        rows: File of the run's rows; it may be gone after this.
        json_file: File for the result; none writes none.
        html_file: File for the page; none writes none.

    Raises:
        ConfigError: If a file cannot be written.
    """
    if html_file is not None:
        raise ConfigError(f"{html_file}: this version writes no page. Leave --html out.")
    measured = [row for row in read_rows(rows) if row.phase == "measured"]
    for arm in scenario.arms:
        for load in scenario.loads:
            chosen = [row for row in measured if row.arm == arm.name and row.load == load]
            line = f"{arm.name}, load {load:g} ({scenario.mode} loop): {len(chosen)} requests"
            for name, values in (
                ("TTFT", [row.ttft_from_schedule_seconds for row in chosen]),
                ("TPOT", [row.tpot_seconds for row in chosen]),
            ):
                known = [1e3 * value for value in values if value is not None]
                if known:
                    line += f", {name} p50 {percentile(known, 50):.1f} ms"
                    line += f" p95 {percentile(known, 95):.1f} ms"
            typer.echo(line)
    write_json(json_file, {"record": dataclasses.asdict(record)})
    return True
