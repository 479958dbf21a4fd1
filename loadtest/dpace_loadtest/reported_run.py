"""A run with its report: load, the service's records of it, and what both came to."""

import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from dpace_loadtest.arm_access import read_key
from dpace_loadtest.finish import FinishedRun, finish
from dpace_loadtest.run import run
from dpace_loadtest.run_facts import ArmFacts, RunFacts, SloLimits
from dpace_loadtest.run_record import RunRecord
from dpace_loadtest.run_verdict import RunVerdict
from dpace_loadtest.scenario import ScenarioConfig
from dpace_loadtest.service import RecordReader, RecordThread, server_name
from dpace_loadtest.slo import SloConfig
from dpace_serve import __version__
from dpace_serve.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where the report goes; none of a file writes none.

    Attributes:
        json: The report for machines.
        html: The report for people.
        rows: Every request with its acceptance, one JSON object a line.
    """

    json: Path | None
    html: Path | None
    rows: Path | None


def reported_run(
    scenario: ScenarioConfig, name: str, files: ReportFiles, console: Console
) -> RunVerdict:
    """Run a scenario, read what its servers recorded of it meanwhile, and report both.

    Args:
        scenario: What is run.
        name: What reports call it.
        files: What is kept beside the summary.
        console: Where the summary goes.

    Raises:
        LoadTestError: If the run did not come to its end.
        EngineError: If a server refuses its key.
        ConfigError: If a key cannot be read or a file cannot be written.
    """
    with contextlib.ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="dpace-report-")))
        rows = folder / "rows.jsonl"
        readers = [
            opened.enter_context(
                contextlib.closing(RecordReader(url, key=key, observation_url=observation))
            )
            for url, (key, observation) in _servers(scenario).items()
        ]
        with contextlib.ExitStack() as following:
            for reader in readers:
                following.enter_context(RecordThread(reader))
            record = run(scenario, rows)
        done = finish(
            run_facts(scenario, name, record),
            rows,
            folder,
            services=[reader.collect() for reader in readers],
            console=console,
        )
        _keep(done, files)
        return done.verdict


def run_facts(scenario: ScenarioConfig, name: str, record: RunRecord) -> RunFacts:
    """What the report is told of a run."""
    started = datetime.fromtimestamp(record.started_unix_seconds, UTC)
    return RunFacts(
        name=name,
        mode=scenario.mode,
        arms=tuple(
            ArmFacts(arm.name, server_name(scenario.url_of(arm)), arm.drafter)
            for arm in scenario.arms
        ),
        baseline=scenario.baseline,
        loads=scenario.loads,
        slo=_limits(scenario.slo),
        max_failed_share=scenario.max_failed_share,
        saturation_seconds=scenario.max_send_lag_ms / 1e3,
        seed=scenario.seed,
        prompt_hash=record.prompts_sha256,
        versions={"dpace_serve": __version__, "locust": version("locust")},
        started_at=started.isoformat(timespec="seconds"),
        generator_cpu=_busiest(record),
    )


def _busiest(record: RunRecord) -> dict[tuple[str, float], float]:
    """CPU of the busiest worker by arm and load, in the round in which it was highest."""
    shares: dict[tuple[str, float], float] = {}
    for cell in record.cells:
        place = (cell.arm, cell.load)
        shares[place] = max(shares.get(place, 0.0), cell.cpu_share)
    return shares


def _servers(scenario: ScenarioConfig) -> Mapping[str, tuple[str | None, str | None]]:
    """Key and address of the records of each server, once; arms that share one share them too."""
    servers: dict[str, tuple[str | None, str | None]] = {}
    for arm in scenario.arms:
        url = scenario.url_of(arm)
        key = None if arm.api_key_file is None else read_key(arm.api_key_file)
        former_key, former_observation = servers.get(url, (None, None))
        servers[url] = (key or former_key, arm.observation_url or former_observation)
    return servers


def _limits(slo: SloConfig) -> SloLimits:
    return SloLimits(
        ttft_seconds=_seconds(slo.ttft_ms),
        tpot_seconds=_seconds(slo.tpot_ms),
        end_to_end_seconds=_seconds(slo.end_to_end_ms),
        min_goodput_share=slo.min_goodput_share,
    )


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3


def _keep(done: FinishedRun, files: ReportFiles) -> None:
    for made, wanted in (
        (done.report_json, files.json),
        (done.report_html, files.html),
        (done.joined_rows, files.rows),
    ):
        if wanted is not None:
            try:
                shutil.copyfile(made, wanted)
            except OSError as error:
                raise ConfigError(
                    f"{wanted}: cannot be written ({error.strerror}). Choose another path."
                ) from None
