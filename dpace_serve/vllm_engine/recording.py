"""Puts together what follows the drafters of a running engine: who drafts, and what it gains."""

import asyncio
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY

from dpace_serve.acceptance.arm import Arm
from dpace_serve.drafter import checkpoint
from dpace_serve.drafter.target import find_target_folder
from dpace_serve.errors import CheckpointError
from dpace_serve.live.acceptance_log import AcceptanceLog
from dpace_serve.live.admin_key import read_admin_key
from dpace_serve.live.admission import Admission, describe
from dpace_serve.live.capture import CaptureWriter
from dpace_serve.live.comparisons import Comparisons
from dpace_serve.live.fleet import Fleet
from dpace_serve.live.hosted import Candidate, HostedDrafter, Role
from dpace_serve.live.operations import OperationName, OperationResult, Operations
from dpace_serve.live.traffic import Traffic
from dpace_serve.live.verdict_terms import verdict_terms
from dpace_serve.metrics.drafters import LoadedDrafter
from dpace_serve.metrics.exporter import AcceptanceMetrics
from dpace_serve.metrics.refusals import RefusalCount
from dpace_serve.metrics.verdicts import VerdictMetrics
from dpace_serve.serve_config import ServeConfig
from dpace_serve.vllm_engine.arrivals import Arrivals
from dpace_serve.vllm_engine.block_schedule import read_schedule
from dpace_serve.vllm_engine.calibration import read_step_times
from dpace_serve.vllm_engine.engine_drafters import EngineDrafters
from dpace_serve.vllm_engine.observed_engine import extend_spans, observe_steps
from dpace_serve.vllm_engine.recorder import AcceptanceRecorder
from dpace_serve.vllm_engine.start_line import start_line
from dpace_serve.vllm_engine.step_time_ratio import StepTimeRatio, calibrated_times
from dpace_serve.vllm_engine.traffic_capture import TrafficCapture

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.engine.protocol import EngineClient

logger = logging.getLogger(__name__)

METHOD = "dflash"
FETCH_SECONDS = 5.0
"""How long a stopping server waits for the last drafts of its shadows."""
CLOSE_SECONDS = 5.0
"""How long it waits for the disk, for each of log and capture."""
_SALT_BYTES = 16


@dataclass(frozen=True, slots=True)
class Recording:
    """What the routes of this package show and change.

    Attributes:
        recorder: Records of the requests.
        operations: Changes of the drafters.
        comparisons: Verdicts on the challengers.
        files: Close what records are written to, within so many seconds.
    """

    recorder: AcceptanceRecorder
    operations: Operations
    comparisons: Comparisons
    files: tuple[Callable[[float], None], ...]

    async def finish_shadows(self) -> None:
        """Settle the shadows of what has ended, while the engine can still be asked."""
        await self.recorder.aclose(FETCH_SECONDS)

    async def aclose(self) -> None:
        """Settle what is left and close the files: the last answer has been taken."""
        await self.finish_shadows()
        for close in self.files:
            await asyncio.to_thread(close, CLOSE_SECONDS)


def refusal_count() -> RefusalCount:
    """Counts what the gate refuses, on the engine's own page of metrics; made once."""
    return RefusalCount(REGISTRY)


def start_recording(
    engine_client: "EngineClient | None",
    config: ServeConfig | None,
    failures: tuple[type[Exception], ...],
) -> Recording | None:
    """Bind and record what the engine is asked from now on; None where nothing is drafted.

    Args:
        engine_client: The engine, whose `generate` is replaced; none generates nothing.
        config: What `dpace serve` was given; under vLLM's own commands there is none.
        failures: Errors of the engine itself.

    Raises:
        CheckpointError: If a drafter is not complete.
        ConfigError: If a log or a capture cannot be written where it should be, or step times
            or the admin key cannot be read.
    """
    if engine_client is None:
        return None
    vllm_config = engine_client.vllm_config
    speculation = vllm_config.speculative_config
    if speculation is None or speculation.method != METHOD:
        return None
    if config is None:  # one drafter, and no worker of ours that could load another
        config = ServeConfig(target=vllm_config.model_config.model, spare_drafter_slots=0)
    num_draft_tokens = speculation.num_speculative_tokens
    fleet = _fleet(vllm_config, config)
    metrics = AcceptanceMetrics(
        REGISTRY,
        workloads=config.workloads,
        num_draft_tokens=num_draft_tokens,
        method=METHOD,
        step_times=read_step_times(config),
    )
    show_drafters = _drafters_shown(fleet, metrics, config)
    show_drafters()
    comparisons = _comparisons(fleet, metrics, config, num_draft_tokens)
    VerdictMetrics(REGISTRY, comparisons.verdicts)
    engine = EngineDrafters(engine_client, load_timeout_seconds=config.load_timeout_seconds)
    log, capture = _log(config, metrics), _capture(config, metrics, vllm_config)
    arrivals = Arrivals(
        fleet, workloads=config.workloads, allows_choice=config.allow_drafter_choice
    )
    recorder = AcceptanceRecorder(
        arrivals,
        metrics,
        comparisons,
        method=METHOD,
        take=engine.take,
        keep=() if log is None else (log.write,),
        capture=capture,
    )

    def follow_fleet() -> None:
        show_drafters()
        comparisons.refresh()

    operations = _operations(
        fleet, engine, _admission(vllm_config, config, fleet), metrics, config, follow_fleet
    )
    engine_client.generate = recorder.recording(engine_client.generate, failures)
    observe_steps(engine_client, metrics)
    extend_spans(engine_client, arrivals, metrics)
    has_admin_key = read_admin_key(config.admin_key_file, os.environ) is not None
    logger.info("%s", start_line(fleet, config, has_admin_key=has_admin_key))
    files = () if log is None else (log.close,)
    if capture is not None:
        files = (*files, capture.writer.close)
    return Recording(recorder, operations, comparisons, files)


def _fleet(vllm_config: "VllmConfig", config: ServeConfig) -> Fleet:
    name = vllm_config.speculative_config.model
    folder = find_target_folder(name)  # a folder, or the local copy of a hub name
    if folder is None:
        raise CheckpointError(f"{name}: the drafter has no local copy. Download it.")
    own_name = config.drafter_name or Path(name).resolve().name
    champion = Candidate(
        own_name, checkpoint.revision(folder), folder.resolve(), checkpoint.validate(folder)
    )
    return Fleet(
        champion,
        [describe(challenger) for challenger in config.challengers],
        num_spare_slots=config.spare_drafter_slots or 0,
        traffic=Traffic(
            config.mode,
            config.share,
            config.shadow_share,
            config.draw_salt or secrets.token_hex(_SALT_BYTES),
        ),
    )


def _operations(
    fleet: Fleet,
    engine: EngineDrafters,
    admission: Admission,
    metrics: AcceptanceMetrics,
    config: ServeConfig,
    follow_fleet: Callable[[], None],
) -> Operations:
    def on_result(operation: OperationName, result: OperationResult) -> None:
        metrics.count_operation(operation, result)
        follow_fleet()

    return Operations(
        fleet,
        engine,
        admission,
        drain_timeout_seconds=config.drain_timeout_seconds,
        on_result=on_result,
    )


def _admission(vllm_config: "VllmConfig", config: ServeConfig, fleet: Fleet) -> Admission:
    return Admission(
        target=vllm_config.model_config.model,
        root=config.drafter_root,
        num_draft_tokens=vllm_config.speculative_config.num_speculative_tokens,
        target_layer_ids=checkpoint.validate(fleet.champion.folder).target_layer_ids,
    )


def _drafters_shown(
    fleet: Fleet, metrics: AcceptanceMetrics, config: ServeConfig
) -> Callable[[], None]:
    arms: Sequence[Arm] = ["shadow"] if config.mode == "shadow" else ["challenger"]
    if config.allow_drafter_choice:
        arms = ["shadow", "challenger"]

    def show() -> None:
        """Give every drafter that gets requests its series, and say so."""
        roles: list[tuple[HostedDrafter, Sequence[Arm]]] = [(fleet.champion, ["champion"])]
        roles += [(challenger, arms) for challenger in fleet.challengers]
        rows = [
            LoadedDrafter(drafter.name, drafter.revision, arm, drafter.block_size)
            for drafter, its_arms in roles
            for arm in its_arms
        ]
        metrics.hold((drafter.name, drafter.revision) for drafter in fleet.hosted)
        for row in rows:
            metrics.add_drafter(row.name, row.revision, row.block_size, [row.arm])
        metrics.set_loaded(rows)
        metrics.set_split_share(challengers=fleet.served_shares()[Role.CHALLENGER])

    return show


def _comparisons(
    fleet: Fleet, metrics: AcceptanceMetrics, config: ServeConfig, num_draft_tokens: int
) -> Comparisons:
    schedule = None if config.block_schedule is None else read_schedule(config.block_schedule)
    step_time = StepTimeRatio(
        calibrated_times(config, fleet.champion.name),
        (lambda _: num_draft_tokens) if schedule is None else schedule.length_at,
    )
    terms = verdict_terms(
        config.verdict, step_time, metrics.num_steps, num_draft_tokens=num_draft_tokens
    )
    return Comparisons(fleet, terms)


def _log(config: ServeConfig, metrics: AcceptanceMetrics) -> AcceptanceLog | None:
    if config.acceptance_log is None:
        return None
    return AcceptanceLog.open(
        config.acceptance_log, on_lost=lambda count: metrics.export_error("log", count)
    )


def _capture(
    config: ServeConfig, metrics: AcceptanceMetrics, vllm_config: "VllmConfig"
) -> TrafficCapture | None:
    if config.capture is None:
        return None
    served = vllm_config.model_config.served_model_name
    writer = CaptureWriter(config.capture, lambda _: metrics.export_error("capture"))
    return TrafficCapture(writer, served if isinstance(served, str) else served[0])
