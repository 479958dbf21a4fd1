"""What a run was, beside its rows: read by the report."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpace_serve.acceptance import json_row
from dpace_serve.errors import ConfigError, LoadTestError
from dpace_serve.outside_text import MAX_JSON_BYTES, parse_json, read_text

_FAILURE_KEY = "failure"


@dataclass(frozen=True, slots=True)
class CellRecord:
    """One arm under one load in one round.

    Attributes:
        arm: Name of the arm.
        load: Requests/s in an open loop, users in a closed one.
        round: Number of the round, from 0.
        begin_seconds: When its warm-up began, from the start of the run.
        end_seconds: When its last request had ended.
        num_requests: Rows of it, warm-up included.
        num_failed: Of these, those whose outcome is not ok.
        p99_send_lag_ms: 99th percentile of the lag of sending of the measured ones; none without.
        cpu_share: CPU time over time of the busiest worker; near 1 the generator is at its end.
    """

    arm: str
    load: float
    round: int
    begin_seconds: float
    end_seconds: float
    num_requests: int
    num_failed: int
    p99_send_lag_ms: float | None
    cpu_share: float


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A whole run.

    Attributes:
        run_id: Begins the id of every request: `{run_id}-{arm}-{load}-{round}-...`.
        started_unix_seconds: Wall-clock time of second 0 of the rows, at the master.
        num_workers: Generator processes.
        prompts_sha256: Hash of all that could be asked.
        cells: In the order of the run.
    """

    run_id: str
    started_unix_seconds: float
    num_workers: int
    prompts_sha256: str
    cells: tuple[CellRecord, ...]

    def saturated(self, max_send_lag_ms: float) -> list[CellRecord]:
        """Cells in which the generator sent too late for its times to mean what they say."""
        return [
            cell
            for cell in self.cells
            if cell.p99_send_lag_ms is not None and cell.p99_send_lag_ms > max_send_lag_ms
        ]


def write_record(path: Path, record: RunRecord) -> None:
    """Write the record of a run as JSON."""
    path.write_text(json.dumps(dataclasses.asdict(record), indent=2) + "\n", encoding="utf-8")


def write_failure(path: Path, reason: str) -> None:
    """Write in its place why there is none."""
    path.write_text(json.dumps({_FAILURE_KEY: reason}) + "\n", encoding="utf-8")


def read_record(path: Path) -> RunRecord:
    """The record of a run again.

    Raises:
        ConfigError: If the file cannot be read or is none of a run.
        LoadTestError: If the run has none; with the reason.
    """
    try:
        values = parse_json(read_text(path, max_bytes=MAX_JSON_BYTES))
        row = json_row.row_of(values)
        if _FAILURE_KEY in row:
            raise LoadTestError(str(row[_FAILURE_KEY]))
        return _run(row)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Check the path.") from None
    except ValueError as error:
        raise ConfigError(f"{path}: no record of a load test ({error}). Check the path.") from None


def _run(row: Mapping[str, Any]) -> RunRecord:
    json_row.require_keys(row, [field.name for field in dataclasses.fields(RunRecord)])
    if not isinstance(row["cells"], list):
        raise ValueError("cells must be a list")  # noqa: TRY004 (the text is no record)
    return RunRecord(
        run_id=json_row.text(row, "run_id"),
        started_unix_seconds=json_row.number(row, "started_unix_seconds"),
        num_workers=json_row.integer(row, "num_workers"),
        prompts_sha256=json_row.text(row, "prompts_sha256"),
        cells=tuple(_cell(json_row.row_of(cell)) for cell in row["cells"]),
    )


def _cell(row: Mapping[str, Any]) -> CellRecord:
    json_row.require_keys(row, [field.name for field in dataclasses.fields(CellRecord)])
    lag = row["p99_send_lag_ms"]
    return CellRecord(
        arm=json_row.text(row, "arm"),
        load=json_row.number(row, "load"),
        round=json_row.integer(row, "round"),
        begin_seconds=json_row.number(row, "begin_seconds"),
        end_seconds=json_row.number(row, "end_seconds"),
        num_requests=json_row.integer(row, "num_requests"),
        num_failed=json_row.integer(row, "num_failed"),
        p99_send_lag_ms=None if lag is None else json_row.number(row, "p99_send_lag_ms"),
        cpu_share=json_row.number(row, "cpu_share"),
    )
