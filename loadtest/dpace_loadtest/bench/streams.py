"""Streams that one core can read: `python -m dpace_loadtest.bench.streams`.

Requests of 10 s and 20 chunks/s arrive evenly, so many that 300 of them run at a time. The error
of a time to the first token is what the generator measured less what the server took from having
the request to writing the first chunk. With two cores, server and generator get one each.
"""

import argparse
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from dpace_loadtest.bench.fake_process import FakeProcess, fake_server
from dpace_loadtest.percentiles import percentile
from dpace_loadtest.row_json import read_rows
from dpace_loadtest.run import run
from dpace_loadtest.scenario import ScenarioConfig
from dpace_serve.command_line import log_to_stderr
from dpace_serve.config import build_config
from dpace_serve.result_file import write_json

FIRST_MS = 200.0
CHUNKS_PER_SECOND = 20.0
MAX_TTFT_ERROR_MS = 10.0


@dataclass(frozen=True, slots=True)
class StreamsResult:
    """How well one worker read.

    Attributes:
        num_streams: Streams at a time.
        num_measured: Requests measured.
        num_failed: Of all requests, those that failed.
        ttft_error_ms_p50: Median error of the time to the first token.
        ttft_error_ms_p95: 95th percentile of its size.
        tpot_ms_p50: Median time per token; the schedule has 50 ms.
        tpot_ms_p95: 95th percentile of it.
        send_lag_ms_p99: 99th percentile of the lag of sending.
        cpu_share: CPU time of the worker over time; 1 is a whole core.
    """

    num_streams: int
    num_measured: int
    num_failed: int
    ttft_error_ms_p50: float
    ttft_error_ms_p95: float
    tpot_ms_p50: float
    tpot_ms_p95: float
    send_lag_ms_p99: float
    cpu_share: float


def measure_streams(num_streams: int, seconds: float) -> StreamsResult:
    """Read many streams at a time with one worker.

    Args:
        num_streams: How many.
        seconds: How long a stream lasts, and how long is measured once all are there.
    """
    own = os.sched_getaffinity(0)
    cores = sorted(own)[:2]
    is_apart = len(cores) == 2
    with (
        tempfile.TemporaryDirectory(prefix="dpace-streams-") as folder,
        fake_server(cores=cores[:1] if is_apart else ()) as server,
    ):
        if is_apart:
            os.sched_setaffinity(0, cores[1:])  # locust inherits it
        try:
            return _measure(server, Path(folder), num_streams, seconds)
        finally:
            os.sched_setaffinity(0, own)


def _measure(server: FakeProcess, folder: Path, num_streams: int, seconds: float) -> StreamsResult:
    rows_file = folder / "rows.jsonl"
    record = run(_scenario(server, folder, num_streams, seconds), rows_file)
    delays = server.log()["first_delays_seconds"]
    rows = [row for row in read_rows(rows_file) if row.phase == "measured"]
    errors = [
        1e3 * (row.ttft_from_send_seconds - delays[row.response_id.removeprefix("fake-")])
        for row in rows
        if row.ttft_from_send_seconds is not None
    ]
    tpots = sorted(1e3 * row.tpot_seconds for row in rows if row.tpot_seconds is not None)
    (cell,) = record.cells
    return StreamsResult(
        num_streams=num_streams,
        num_measured=len(rows),
        num_failed=cell.num_failed,
        ttft_error_ms_p50=percentile(sorted(errors), 50),
        ttft_error_ms_p95=percentile(sorted(abs(error) for error in errors), 95),
        tpot_ms_p50=percentile(tpots, 50),
        tpot_ms_p95=percentile(tpots, 95),
        send_lag_ms_p99=cell.p99_send_lag_ms or 0.0,
        cpu_share=cell.cpu_share,
    )


def _scenario(
    server: FakeProcess, folder: Path, num_streams: int, seconds: float
) -> ScenarioConfig:
    script = {
        "first_ms": FIRST_MS,
        "gap_ms": 1e3 / CHUNKS_PER_SECOND,
        "num_chunks": round(seconds * CHUNKS_PER_SECOND),
    }
    prompts = folder / "prompts.jsonl"
    prompts.write_text(json.dumps({"question": json.dumps(script)}) + "\n", encoding="utf-8")
    values: dict[str, Any] = {
        "url": server.url,
        "loads": [num_streams / seconds],
        "arrivals": {"process": "constant"},
        # The first streams end when the warm-up does; from then on there are always as many.
        "warm_up_seconds": seconds + FIRST_MS / 1e3,
        "duration_seconds": seconds,
        "workloads": [{"name": "streams", "source": "file", "file": str(prompts)}],
        "max_send_lag_ms": 1e6,
    }
    return build_config(ScenarioConfig, values, source="the benchmark")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    log_to_stderr()
    result = measure_streams(given.streams, given.seconds)
    for name, value in asdict(result).items():
        typer.echo(f"{name:20} {value:.2f}" if isinstance(value, float) else f"{name:20} {value}")
    write_json(given.json, asdict(result))


if __name__ == "__main__":
    main()
