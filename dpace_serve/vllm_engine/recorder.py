"""Binds each request of the engine to its drafters, and records how it ended."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from dpace_serve.acceptance.exclusion import ExclusionReason
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.live.assignment import Binding
from dpace_serve.live.comparisons import Comparisons
from dpace_serve.live.record_book import Keep, RecordBook
from dpace_serve.metrics.exporter import AcceptanceMetrics
from dpace_serve.vllm_engine.answer_record import (
    ABORTED,
    excluded_record,
    finish_reason_of,
    join_cut_steps,
    served_record,
    shadow_record,
)
from dpace_serve.vllm_engine.arrivals import Arrivals
from dpace_serve.vllm_engine.bound_request import BoundRequest, salted
from dpace_serve.vllm_engine.draft_log import TakenDrafts
from dpace_serve.vllm_engine.shadow_collector import EndedRequest, ShadowCollector, Take
from dpace_serve.vllm_engine.traffic_capture import TrafficCapture

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams

Generate = Callable[..., AsyncGenerator["RequestOutput", None]]


class AcceptanceRecorder:
    """Every request that the engine takes leaves one record for each of its drafters."""

    def __init__(
        self,
        arrivals: Arrivals,
        metrics: AcceptanceMetrics,
        comparisons: Comparisons,
        *,
        method: str,
        take: Take,
        keep: tuple[Keep, ...] = (),
        capture: TrafficCapture | None = None,
    ) -> None:
        """Start with nothing recorded.

        Args:
            arrivals: Binds requests to their drafters.
            metrics: Where records are counted.
            comparisons: What judges challengers by the records.
            method: The engine's name of the speculation method.
            take: Fetches what shadows drafted.
            keep: Further places that every record goes to.
            capture: Where finished requests are kept as training data.
        """
        self._arrivals = arrivals
        self._fleet = arrivals.fleet
        self._metrics = metrics
        self._comparisons = comparisons
        self._collector = ShadowCollector(take, self._settle)
        self._book = RecordBook(arrivals.fleet, metrics, method=method, keep=keep)
        self._capture = capture

    def snapshot(self, num_records: int, *, shows_ids: bool = False) -> dict[str, Any]:
        """The champion, all sums, and the newest records that are counted, oldest first.

        Args:
            num_records: How many records.
            shows_ids: Whether records have the requests' ids, or hashes in their place.
        """
        return self._book.snapshot(num_records, shows_ids=shows_ids)

    def records_after(self, sequence: int, limit: int, *, shows_ids: bool) -> dict[str, Any]:
        """The records of all drafters that follow a number, counted or excluded; see RecordRing."""
        return self._book.records_after(sequence, limit, shows_ids=shows_ids)

    def history(self) -> dict[str, Any]:
        """How the sums have grown."""
        return self._book.history()

    async def aclose(self, timeout_seconds: float) -> None:
        """Settle the shadows of what has ended; those of what ends later are lost.

        Args:
            timeout_seconds: Longest wait for their drafts.
        """
        await self._collector.aclose(timeout_seconds)

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
            request = self._arrivals.bind(prompt, sampling_params, request_id)
            if kwargs.get("lora_request") is not None:
                request.has_plain_prompt = False  # it is another target that answers
            prompt = salted(prompt, request.assignment.cache_salt)
            is_ended = False
            try:
                bound = request.bound(sampling_params)
                outputs = generate(prompt, bound, request_id, *args, **kwargs)
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
                self._arrivals.leave(request)
                if not is_ended:  # the engine refused it
                    self._fleet.release(request.assignment)

        return generate_and_record

    def _finish(
        self, request: BoundRequest, output: "RequestOutput", sampling_params: "SamplingParams"
    ) -> None:
        """Record a finished request; whatever goes wrong is counted and never reaches it."""
        self._count_split(request)
        try:
            # First of all: users must never see the split, counted or not.
            emitted_by_last_step = join_cut_steps(output)
            request.note(output, sampling_params)
            record = served_record(request, output, sampling_params.n, emitted_by_last_step)
        except Exception as error:  # noqa: BLE001  (no answer may fail over its statistics)
            self._book.lose("record", error)
            serving, finish_reason = request.assignment.serving, finish_reason_of(output)
            record = excluded_record(request, serving, "no_record", finish_reason)
            self._book.add(record)
            self._end_shadows(EndedRequest(request, record))
            return
        is_recorded = self._book.add(record)
        self._judge(partial(self._comparisons.add_served, request.assignment, record))
        if is_recorded and record.excluded is None and request.has_unknown_workload:
            self._metrics.unknown_workload()
        if self._capture is not None:
            self._capture.keep(request, record.finish_reason, sampling_params)
        self._end_shadows(EndedRequest(request, record))

    def _end(self, request: BoundRequest, reason: ExclusionReason, finish_reason: str) -> None:
        self._count_split(request)
        record = excluded_record(request, request.assignment.serving, reason, finish_reason)
        self._book.add(record)
        self._end_shadows(EndedRequest(request, record))

    def _count_split(self, request: BoundRequest) -> None:
        """Count whom the draw took, whatever becomes of the request's record."""
        if self._fleet.is_split(request.assignment):
            self._metrics.count_split(request.assignment.serving.arm)

    def _end_shadows(self, ended: EndedRequest) -> None:
        if ended.request.assignment.shadows:
            self._collector.add(ended)
        else:
            self._fleet.release(ended.request.assignment)

    def _settle(self, ended: EndedRequest, drafts: TakenDrafts) -> None:
        """Record the shadows of an ended request."""
        request, served = ended.request, ended.served
        self._fleet.release(request.assignment)
        for shadow in request.assignment.shadows:
            record = self._shadow_record(request, shadow, drafts, served)
            self._book.add(record)
            self._judge(partial(self._comparisons.add_shadow, request.assignment, served, record))

    def _shadow_record(
        self,
        request: BoundRequest,
        shadow: Binding,
        drafts: TakenDrafts,
        served: RequestAcceptance,
    ) -> RequestAcceptance:
        if served.excluded is not None:
            return excluded_record(request, shadow, served.excluded, served.finish_reason)
        try:
            return shadow_record(request, shadow, drafts, served)
        except Exception as error:  # noqa: BLE001  (the next request must still be settled)
            self._book.lose("shadow", error)
            return excluded_record(request, shadow, "no_shadow", served.finish_reason)

    def _judge(self, add: Callable[[], None]) -> None:
        try:
            add()
        except Exception as error:  # noqa: BLE001  (no answer may fail over its statistics)
            self._book.lose("verdict", error)

    def _join(self, output: "RequestOutput") -> None:
        try:
            join_cut_steps(output)
        except Exception as error:  # noqa: BLE001  (no answer may fail over its statistics)
            self._book.log_first(error)
