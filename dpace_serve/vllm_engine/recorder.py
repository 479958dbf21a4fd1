"""Binds each request of the engine to its drafters, and records how it ended."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from dpace_serve.acceptance.exclusion import ExclusionReason
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.live.fleet import Fleet
from dpace_serve.metrics.exporter import AcceptanceMetrics
from dpace_serve.metrics.names import OTHER_WORKLOAD, ExportStage
from dpace_serve.vllm_engine.answer_record import (
    ABORTED,
    excluded_record,
    join_cut_steps,
    served_record,
    shadow_record,
)
from dpace_serve.vllm_engine.bound_request import BoundRequest, can_be_shadowed, salted
from dpace_serve.vllm_engine.draft_log import TakenDrafts
from dpace_serve.vllm_engine.shadow_collector import EndedRequest, ShadowCollector, Take

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams

logger = logging.getLogger(__name__)

WORKLOAD_TAG = "dpace_workload"
DRAFTER_TAG = "dpace_drafter"
MAX_RECORDS = 256
"""Ended requests kept for `GET /dpace/acceptance?records=`."""

Generate = Callable[..., AsyncGenerator["RequestOutput", None]]
Keep = Callable[[RequestAcceptance], None]


class AcceptanceRecorder:
    """Every request that the engine takes leaves one record for each of its drafters."""

    def __init__(
        self,
        fleet: Fleet,
        metrics: AcceptanceMetrics,
        *,
        workloads: tuple[str, ...],
        allows_choice: bool,
        take: Take,
        keep: tuple[Keep, ...] = (),
    ) -> None:
        """Start with nothing recorded.

        Args:
            fleet: Who drafts for whom.
            metrics: Where records are counted.
            workloads: Workload labels that requests may carry.
            allows_choice: Whether a request may name the drafter that serves it.
            take: Fetches what shadows drafted.
            keep: Further places that every record goes to.
        """
        self._fleet = fleet
        self._metrics = metrics
        self._workloads = frozenset(workloads)
        self._allows_choice = allows_choice
        self._collector = ShadowCollector(take, self._settle)
        self._keep = keep
        self._records: deque[RequestAcceptance] = deque(maxlen=MAX_RECORDS)
        self._has_failed = False

    def snapshot(self, num_records: int) -> dict[str, Any]:
        """All sums, and the newest records of requests that are counted, oldest first."""
        newest = list(self._records)[max(0, len(self._records) - num_records) :]
        return {
            **self._metrics.snapshot(),
            "records": [record.to_dict() for record in newest],
        }

    def close(self) -> None:
        """Give up what is not settled: the engine is about to stop."""
        self._collector.close()

    def recording(self, generate: Generate, failures: tuple[type[Exception], ...]) -> Generate:
        """The engine's `generate`, which also binds each request and records how it ended.

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
            request = self._arrive(prompt, sampling_params, request_id)
            prompt = salted(prompt, request.assignment.cache_salt)
            is_ended = False
            try:
                outputs = generate(prompt, sampling_params, request_id, *args, **kwargs)
                # Closing it at once is what makes the engine stop for a client that left.
                async with aclosing(outputs):
                    async for output in outputs:
                        if output.finished and not is_ended:
                            is_ended = True
                            self._finish(request, output, sampling_params)
                        elif sampling_params.n > 1:
                            self._join(output)  # its answers end one by one
                        else:
                            request.note(output, sampling_params)
                        yield output
            except interruptions:
                if not is_ended:
                    is_ended = True
                    self._end(request, "aborted", ABORTED)
                raise
            finally:
                if not is_ended:  # the engine refused it
                    self._fleet.release(request.assignment)

        return generate_and_record

    def _arrive(
        self, prompt: object, sampling_params: "SamplingParams", request_id: str
    ) -> BoundRequest:
        """Bind a request to its drafters.

        Raises:
            ValueError: If it names a drafter that it may not have; the engine's server answers 400.
        """
        tags = sampling_params.extra_args or {}
        wanted = tags.get(DRAFTER_TAG)
        if wanted is not None and not self._allows_choice:
            raise ValueError(
                f"{DRAFTER_TAG} must be left out: this server does not let requests choose their "
                "drafter. Its operator can allow it with allow_drafter_choice."
            )
        assignment = self._fleet.assign(
            request_id,
            wanted=None if wanted is None else str(wanted),
            may_shadow=can_be_shadowed(prompt, sampling_params),
        )
        request = BoundRequest(request_id, assignment, self._workload_of(sampling_params)[1])
        request.bind(sampling_params)
        return request

    def _finish(
        self, request: BoundRequest, output: "RequestOutput", sampling_params: "SamplingParams"
    ) -> None:
        """Record a finished request; whatever goes wrong is counted and never reaches it."""
        try:
            # First of all: users must never see the split, counted or not.
            emitted_by_last_step = join_cut_steps(output)
            request.note(output, sampling_params)
            record = served_record(request, output, sampling_params, emitted_by_last_step)
        except Exception as error:  # noqa: BLE001  (no answer may fail over its statistics)
            self._lose("record", error)
            self._end_shadows(EndedRequest(request, ABORTED, "no_record"))
            return
        self._record(record)
        if record.excluded is None and not self._workload_of(sampling_params)[0]:
            self._metrics.unknown_workload()
        self._end_shadows(EndedRequest(request, record.finish_reason, record.excluded))

    def _end(self, request: BoundRequest, reason: ExclusionReason, finish_reason: str) -> None:
        self._record(excluded_record(request, request.assignment.serving, reason, finish_reason))
        self._end_shadows(EndedRequest(request, finish_reason, reason))

    def _end_shadows(self, ended: EndedRequest) -> None:
        if ended.request.assignment.shadows:
            self._collector.add(ended)
        else:
            self._fleet.release(ended.request.assignment)

    def _settle(self, ended: EndedRequest, drafts: TakenDrafts) -> None:
        """Record the shadows of an ended request."""
        request = ended.request
        self._fleet.release(request.assignment)
        for shadow in request.assignment.shadows:
            try:
                if ended.excluded is not None:
                    record = excluded_record(request, shadow, ended.excluded, ended.finish_reason)
                else:
                    record = shadow_record(request, shadow, drafts, ended.finish_reason)
            except Exception as error:  # noqa: BLE001  (the next request must still be settled)
                self._lose("shadow", error)
                continue
            self._record(record)

    def _record(self, record: RequestAcceptance) -> None:
        try:
            if record.excluded is None:
                self._metrics.observe(record)
                self._records.append(record)
            else:
                self._metrics.exclude(record)
        except Exception as error:  # noqa: BLE001  (no answer may fail over its statistics)
            self._lose("observe", error)
            return
        for keep in self._keep:
            keep(record)

    def _join(self, output: "RequestOutput") -> None:
        try:
            join_cut_steps(output)
        except Exception as error:  # noqa: BLE001  (no answer may fail over its statistics)
            self._log_first(error)

    def _workload_of(self, sampling_params: "SamplingParams") -> tuple[bool, str]:
        """Whether its tag, if any, is one of the configured, and the label to count it under."""
        tag = (sampling_params.extra_args or {}).get(WORKLOAD_TAG)
        if isinstance(tag, str) and tag in self._workloads:
            return True, tag
        return tag in (None, OTHER_WORKLOAD), OTHER_WORKLOAD

    def _lose(self, stage: ExportStage, error: Exception) -> None:
        self._metrics.export_error(stage)
        self._log_first(error)

    def _log_first(self, error: Exception) -> None:
        if not self._has_failed:
            self._has_failed = True
            logger.error(
                "a finished request could not be counted (%s); more are only counted, in "
                "dpace_export_errors_total",
                error,
                exc_info=error,
            )
