"""Turns each finished request of the engine into a record of its acceptance."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY

from dpace_serve.acceptance.arm import Arm
from dpace_serve.acceptance.exclusion import ExclusionReason
from dpace_serve.acceptance.last_step import settle_last_step
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.config import ServeConfig
from dpace_serve.drafter import checkpoint
from dpace_serve.drafter.target import find_target_folder
from dpace_serve.errors import CheckpointError
from dpace_serve.metrics.drafters import LoadedDrafter
from dpace_serve.metrics.exporter import AcceptanceMetrics
from dpace_serve.metrics.names import OTHER_WORKLOAD, ExportStage
from dpace_serve.vllm_engine.settlement import join_cut_step

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.engine.protocol import EngineClient
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.sampling_params import SamplingParams

logger = logging.getLogger(__name__)

CHAMPION: Arm = "champion"
METHOD = "dflash"
WORKLOAD_TAG = "dpace_workload"
MAX_RECORDS = 256
"""Finished requests kept for `GET /dpace/acceptance?records=`."""

Generate = Callable[..., AsyncGenerator["RequestOutput", None]]


@dataclass(frozen=True, slots=True)
class DrafterIdentity:
    """The drafter that this server drafts with."""

    name: str
    revision: str
    arm: Arm
    method: str
    block_size: int
    num_draft_tokens: int


class AcceptanceRecorder:
    """Records of this server's finished requests, counted and the newest of them kept."""

    def __init__(
        self, drafter: DrafterIdentity, metrics: AcceptanceMetrics, workloads: tuple[str, ...]
    ) -> None:
        """Start with nothing recorded.

        Args:
            drafter: Who drafts.
            metrics: Where records are counted.
            workloads: Workload labels that requests may carry.
        """
        self._drafter = drafter
        self._metrics = metrics
        self._workloads = frozenset(workloads)
        self._records: deque[RequestAcceptance] = deque(maxlen=MAX_RECORDS)
        self._has_failed = False

    def snapshot(self, num_records: int) -> dict[str, Any]:
        """The drafter, all sums, and the newest records, oldest first."""
        newest = list(self._records)[max(0, len(self._records) - num_records) :]
        return {
            "drafter": asdict(self._drafter),
            **self._metrics.snapshot(),
            "records": [record.to_dict() for record in newest],
        }

    def recording(self, generate: Generate, failures: tuple[type[Exception], ...]) -> Generate:
        """The engine's `generate`, which also records each request as it finishes.

        Args:
            generate: The engine's own.
            failures: Errors of the engine itself, which end a request that it had taken.
        """
        interruptions: tuple[type[BaseException], ...] = (
            asyncio.CancelledError,
            GeneratorExit,
            *failures,
        )

        async def generate_and_record(
            prompt: object,
            sampling_params: "SamplingParams",
            request_id: str,
            *args: object,
            **kwargs: object,
        ) -> AsyncGenerator["RequestOutput", None]:
            outputs = generate(prompt, sampling_params, request_id, *args, **kwargs)
            is_finished = False
            try:
                # Closing it at once is what makes the engine stop for a client that left.
                async with aclosing(outputs):
                    async for output in outputs:
                        if output.finished and not is_finished:
                            is_finished = True
                            self.finish(output, sampling_params)
                        elif sampling_params.n > 1:
                            self._join(output)  # its answers end one by one
                        yield output
            except interruptions:
                if not is_finished:
                    _, workload = self._workload_of(sampling_params)
                    self._exclude("aborted", request_id, workload, "abort")
                raise

        return generate_and_record

    def finish(self, output: "RequestOutput", sampling_params: "SamplingParams") -> None:
        """Count a finished request; whatever goes wrong is counted and never reaches it."""
        stage: ExportStage = "record"
        try:
            # First of all: users must never see the split, counted or not.
            emitted_by_last_step = _join_cut_steps(output)
            reason = _exclusion_of(output, sampling_params)
            is_known, workload = self._workload_of(sampling_params)
            record = None if reason else self._record_of(output, workload, emitted_by_last_step)
            if record is None:
                ending = output.outputs[0].finish_reason
                self._exclude(reason or "no_step", output.request_id, workload, ending)
                return
            stage = "observe"
            self._metrics.observe(record)
        except Exception as error:  # noqa: BLE001  (no answer may fail over its statistics)
            self._metrics.export_error(stage)
            self._log_first(error)
            return
        self._records.append(record)
        if not is_known:
            self._metrics.unknown_workload()

    def _exclude(
        self, reason: ExclusionReason, request_id: str, workload: str, finish_reason: str
    ) -> None:
        record = RequestAcceptance.from_exclusion(
            reason,
            request_id=request_id,
            drafter=self._drafter.name,
            revision=self._drafter.revision,
            arm=self._drafter.arm,
            workload=workload,
            finish_reason=finish_reason,
        )
        self._metrics.exclude(record)

    def _join(self, output: "RequestOutput") -> None:
        try:
            _join_cut_steps(output)
        except Exception as error:  # noqa: BLE001  (no answer may fail over its statistics)
            self._log_first(error)

    def _record_of(
        self, output: "RequestOutput", workload: str, emitted_by_last_step: int
    ) -> RequestAcceptance | None:
        """Record of one answer; None if nothing of it was drafted."""
        answer = output.outputs[0]
        counts = answer.spec_decode_metrics
        if not sum(counts.histogram):
            return None
        settled = settle_last_step(
            counts.per_step_accepted, counts.per_step_drafted, emitted_by_last_step
        )
        if not settled.per_step_drafted:
            return None
        return RequestAcceptance(
            request_id=output.request_id,
            drafter=self._drafter.name,
            revision=self._drafter.revision,
            arm=self._drafter.arm,
            workload=workload,
            per_step_accepted=settled.per_step_accepted,
            per_step_drafted=settled.per_step_drafted,
            emitted_tokens=settled.emitted_tokens,
            unsettled_drafted=settled.unsettled_drafted,
            unsettled_accepted=settled.unsettled_accepted,
            finish_reason=answer.finish_reason,
        )

    def _workload_of(self, sampling_params: "SamplingParams") -> tuple[bool, str]:
        """Whether its tag, if any, is one of the configured, and the label to count it under."""
        tag = (sampling_params.extra_args or {}).get(WORKLOAD_TAG)
        if isinstance(tag, str) and tag in self._workloads:
            return True, tag
        return tag in (None, OTHER_WORKLOAD), OTHER_WORKLOAD

    def _log_first(self, error: Exception) -> None:
        if not self._has_failed:
            self._has_failed = True
            logger.error(
                "a finished request could not be counted (%s); more are only counted, in "
                "dpace_export_errors_total",
                error,
                exc_info=error,
            )


def start_recording(
    engine_client: "EngineClient | None",
    config: ServeConfig | None,
    failures: tuple[type[Exception], ...],
) -> AcceptanceRecorder | None:
    """Record what the engine finishes from now on; None where nothing is drafted.

    Args:
        engine_client: The engine, whose `generate` is replaced; none generates nothing.
        config: What `dpace serve` was given; under vLLM's own commands there is none.
        failures: Errors of the engine itself.

    Raises:
        CheckpointError: If the drafter is not complete.
    """
    if engine_client is None:
        return None
    speculation = engine_client.vllm_config.speculative_config
    if speculation is None or speculation.method != METHOD:
        return None
    drafter = _identify_drafter(engine_client.vllm_config, config)
    workloads = config.workloads if config is not None else _default_workloads()
    metrics = AcceptanceMetrics(
        REGISTRY,
        workloads=workloads,
        num_draft_tokens=drafter.num_draft_tokens,
        method=drafter.method,
    )
    loaded = LoadedDrafter(drafter.name, drafter.revision, drafter.arm, drafter.block_size)
    metrics.add_drafter(loaded.name, loaded.revision, loaded.block_size, [loaded.arm])
    metrics.set_loaded([loaded])
    recorder = AcceptanceRecorder(drafter, metrics, workloads)
    engine_client.generate = recorder.recording(engine_client.generate, failures)
    return recorder


def _identify_drafter(vllm_config: "VllmConfig", config: ServeConfig | None) -> DrafterIdentity:
    speculation = vllm_config.speculative_config
    folder = find_target_folder(speculation.model)  # a folder, or the local copy of a hub name
    if folder is None:
        raise CheckpointError(f"{speculation.model}: the drafter has no local copy. Download it.")
    given = config.drafter_name if config is not None else None
    return DrafterIdentity(
        name=given or Path(speculation.model).resolve().name,
        revision=checkpoint.revision(folder),
        arm=CHAMPION,
        method=METHOD,
        block_size=checkpoint.validate(folder).block_size,
        num_draft_tokens=speculation.num_speculative_tokens,
    )


def _join_cut_steps(output: "RequestOutput") -> int:
    """Undo the scheduler's split in all answers; tokens of the last one's last step."""
    emitted_by_last_step = 0
    for answer in output.outputs:
        counts = answer.spec_decode_metrics
        if counts is not None and counts.per_step_accepted:
            emitted_by_last_step = join_cut_step(counts)
    return emitted_by_last_step


def _exclusion_of(
    output: "RequestOutput", sampling_params: "SamplingParams"
) -> ExclusionReason | None:
    """Why a finished request cannot be counted, before a look at its steps."""
    if len(output.outputs) != 1 or sampling_params.n != 1:
        return "several_outputs"
    answer = output.outputs[0]
    if answer.finish_reason in ("abort", "error"):
        return "aborted"
    if _has_stop_string(answer):
        return "stop_string"
    counts = answer.spec_decode_metrics
    if counts is None:
        return "no_record"
    if sum(counts.histogram) and not counts.per_step_accepted:
        return "no_record"  # the engine was told to keep a summary only
    return None


def _has_stop_string(answer: "CompletionOutput") -> bool:
    # Found in the API process: the engine core never said where its own counts end.
    return answer.finish_reason == "stop" and isinstance(answer.stop_reason, str)


def _default_workloads() -> tuple[str, ...]:
    default: tuple[str, ...] = ServeConfig.model_fields["workloads"].default
    return default
