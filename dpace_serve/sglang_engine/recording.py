"""Puts together what follows the drafter of a running engine: who drafts, and what it gains."""

import logging
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from dpace_serve.drafter import checkpoint
from dpace_serve.drafter.target import find_target_folder
from dpace_serve.errors import CheckpointError
from dpace_serve.live.acceptance_log import AcceptanceLog
from dpace_serve.live.admin_key import read_admin_key
from dpace_serve.live.admission import Admission
from dpace_serve.live.arrival_gate import ArrivalGate
from dpace_serve.live.comparisons import Comparisons
from dpace_serve.live.hosted import Candidate
from dpace_serve.live.in_place_fleet import InPlaceFleet
from dpace_serve.live.operations import OperationName, OperationResult, Operations
from dpace_serve.live.record_book import RecordBook
from dpace_serve.live.traffic import Traffic
from dpace_serve.live.verdict_terms import verdict_terms
from dpace_serve.metrics.drafters import LoadedDrafter
from dpace_serve.metrics.exporter import AcceptanceMetrics
from dpace_serve.metrics.verdicts import VerdictMetrics
from dpace_serve.serve_config import ServeConfig
from dpace_serve.sglang_engine.engine_drafters import EngineDrafters
from dpace_serve.sglang_engine.recorder import AcceptanceRecorder

if TYPE_CHECKING:
    from sglang.srt.managers.tokenizer_manager import TokenizerManager

logger = logging.getLogger(__name__)

METHOD = "dflash"
CLOSE_SECONDS = 5.0
"""How long a stopping server waits for the disk."""
_SALT_BYTES = 16


@dataclass(frozen=True, slots=True)
class DraftedServer:
    """What an engine was started with.

    Attributes:
        target: Folder or hub name of the target.
        drafter: Folder or hub name of the drafter.
        num_draft_tokens: Draft tokens per step.
        num_processes: Scheduler processes, which each hold weights.
    """

    target: str
    drafter: str
    num_draft_tokens: int
    num_processes: int


@dataclass(frozen=True, slots=True)
class Recording:
    """What the routes of this package show and change.

    Attributes:
        book: Records of the requests.
        operations: Changes of the drafter.
        comparisons: Verdicts on challengers, of which there are none.
        registry: The `dpace_*` metrics.
        revision: Revision of the drafter that the server starts with.
        close: Writes what is still to be written.
    """

    book: RecordBook
    operations: Operations
    comparisons: Comparisons
    registry: CollectorRegistry
    revision: str
    close: Callable[[], None]


def start_recording(
    manager: "TokenizerManager", config: ServeConfig, served: DraftedServer
) -> Recording:
    """Let in, bind and record what the engine is asked from now on.

    Args:
        manager: Through which SGLang's server asks its engine; two of its methods are replaced.
        config: What is served.
        served: What the engine was started with.

    Raises:
        CheckpointError: If the drafter is not complete.
        ConfigError: If a log cannot be written where it should be, or the admin key be read.
    """
    champion, gate, registry = _champion(config, served), ArrivalGate(), CollectorRegistry()
    fleet = InPlaceFleet(
        champion, gate, can_load=_can_load(config, served), traffic=_traffic(config)
    )
    metrics = AcceptanceMetrics(
        registry,
        workloads=config.workloads,
        num_draft_tokens=served.num_draft_tokens,
        method=METHOD,
    )
    _show(fleet, metrics)
    comparisons = _comparisons(fleet, metrics, config, served)
    VerdictMetrics(registry, comparisons.verdicts)
    log = _log(config, metrics)
    book = RecordBook(fleet, metrics, method=METHOD, keep=() if log is None else (log.write,))
    _record(
        manager,
        AcceptanceRecorder(
            fleet,
            gate,
            metrics,
            book,
            workloads=config.workloads,
            num_draft_tokens=served.num_draft_tokens,
            is_health_check=_is_health_check,
        ),
    )

    def on_result(operation: OperationName, result: OperationResult) -> None:
        metrics.count_operation(operation, result)
        _show(fleet, metrics)
        comparisons.refresh()

    operations = Operations(
        fleet,
        EngineDrafters(manager, load_timeout_seconds=config.load_timeout_seconds),
        Admission(
            target=served.target,
            root=config.drafter_root,
            num_draft_tokens=served.num_draft_tokens,
            target_layer_ids=champion.config.target_layer_ids,
        ),
        drain_timeout_seconds=config.drain_timeout_seconds,
        on_result=on_result,
    )

    def close() -> None:
        if log is not None:
            log.close(CLOSE_SECONDS)

    logger.info("%s", _start_line(fleet, config))
    return Recording(book, operations, comparisons, registry, champion.revision, close)


def _champion(config: ServeConfig, served: DraftedServer) -> Candidate:
    folder = find_target_folder(served.drafter)  # a folder, or the local copy of a hub name
    if folder is None:
        raise CheckpointError(f"{served.drafter}: the drafter has no local copy. Download it.")
    name = config.drafter_name or Path(served.drafter).resolve().name
    return Candidate(
        name, checkpoint.revision(folder), folder.resolve(), checkpoint.validate(folder)
    )


def _can_load(config: ServeConfig, served: DraftedServer) -> bool:
    has_admin_key = read_admin_key(config.admin_key_file, os.environ) is not None
    is_asked = has_admin_key and config.drafter_root is not None
    if is_asked and served.num_processes > 1:
        logger.warning(
            "%d processes hold the weights: the drafter cannot be changed while serving",
            served.num_processes,
        )
    return is_asked and served.num_processes == 1


def _traffic(config: ServeConfig) -> Traffic:
    salt = config.draw_salt or secrets.token_hex(_SALT_BYTES)
    return Traffic(config.mode, config.share, config.shadow_share, salt)


def _show(fleet: InPlaceFleet, metrics: AcceptanceMetrics) -> None:
    """Give the champion its series, and say that it is loaded."""
    champion = fleet.champion
    row = LoadedDrafter(champion.name, champion.revision, "champion", champion.block_size)
    metrics.hold((drafter.name, drafter.revision) for drafter in fleet.hosted)
    metrics.add_drafter(row.name, row.revision, row.block_size, [row.arm])
    metrics.set_loaded([row])


def _comparisons(
    fleet: InPlaceFleet, metrics: AcceptanceMetrics, config: ServeConfig, served: DraftedServer
) -> Comparisons:
    # No step is timed: `num_steps` stays empty, and no ratio of step times is known.
    terms = verdict_terms(
        config.verdict,
        lambda _rivals, _num_steps: None,
        metrics.num_steps,
        num_draft_tokens=served.num_draft_tokens,
    )
    return Comparisons(fleet, terms)


def _record(manager: "TokenizerManager", recorder: AcceptanceRecorder) -> None:
    manager.generate_request = recorder.gated(manager.generate_request)
    manager._stream_one_response = recorder.recording(manager._stream_one_response)  # noqa: SLF001  (called once for each request)


def _is_health_check(request_id: str) -> bool:
    from sglang.srt.constants import HEALTH_CHECK_RID_PREFIX

    return request_id.startswith(str(HEALTH_CHECK_RID_PREFIX))


def _log(config: ServeConfig, metrics: AcceptanceMetrics) -> AcceptanceLog | None:
    if config.acceptance_log is None:
        return None
    return AcceptanceLog.open(
        config.acceptance_log, on_lost=lambda count: metrics.export_error("log", count)
    )


def _start_line(fleet: InPlaceFleet, config: ServeConfig) -> str:
    champion = fleet.champion
    loadable = f"others can be loaded from {config.drafter_root}"
    if not fleet.can_load:
        loadable = "no drafter can be loaded, which needs drafter_root, an admin key, one process"
    return f"champion {champion.name} (revision {champion.revision}); {loadable}"
