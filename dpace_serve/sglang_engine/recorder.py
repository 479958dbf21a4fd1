"""Lets requests in one drafter at a time, and records how each of them ended."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from dpace_serve.acceptance.request_id import recorded_id
from dpace_serve.live.arrival_gate import ArrivalGate
from dpace_serve.live.assignment import Assignment
from dpace_serve.live.fleet import Fleet
from dpace_serve.live.record_book import RecordBook
from dpace_serve.metrics.exporter import AcceptanceMetrics
from dpace_serve.serve_config import OTHER_WORKLOAD
from dpace_serve.sglang_engine.answer_record import (
    ABORTED,
    BoundRequest,
    ServedSteps,
    excluded_record,
    served_record,
)
from dpace_serve.sglang_engine.step_records import REVISION, STEPS
from dpace_serve.web.workload_header import workload_of_header

if TYPE_CHECKING:
    from sglang.srt.managers.io_struct import GenerateReqInput
    from sglang.srt.managers.tokenizer_manager import ReqState

Outputs = AsyncGenerator[dict[str, Any], None]
WORKLOAD_TAG = "dpace_workload"

_several: ContextVar[list[str] | None] = ContextVar("dpace_several", default=None)
"""Ids of the engine's requests for a prompt with several answers, while its call begins."""


class AcceptanceRecorder:
    """Every request that the engine takes leaves one record."""

    def __init__(
        self,
        fleet: Fleet,
        gate: ArrivalGate,
        metrics: AcceptanceMetrics,
        book: RecordBook,
        *,
        workloads: tuple[str, ...],
        num_draft_tokens: int,
        is_health_check: Callable[[str], bool],
    ) -> None:
        """Start with nothing recorded.

        Args:
            fleet: Who drafts.
            gate: Where calls wait while the drafter is changed.
            metrics: Where unknown workloads are counted.
            book: Where records go.
            workloads: Workload labels that requests may carry.
            num_draft_tokens: Drafted tokens of each step.
            is_health_check: Whether a request of this name is the server's own.
        """
        self._fleet = fleet
        self._gate = gate
        self._metrics = metrics
        self._book = book
        self._workloads = frozenset(workloads)
        self._num_draft_tokens = num_draft_tokens
        self._is_health_check = is_health_check

    def gated(self, generate: Callable[..., Outputs]) -> Callable[..., Outputs]:
        """SGLang's `generate_request`, which also waits at the gate.

        Prompts with several answers each leave their record here: to SGLang every answer is a
        request of its own, and one more fills the cache.
        """

        async def generate_inside(
            obj: "GenerateReqInput", request: object | None = None
        ) -> AsyncGenerator[dict[str, Any], None]:
            if isinstance(obj.rid, str) and self._is_health_check(obj.rid):
                async with aclosing(generate(obj, request)) as outputs:
                    async for output in outputs:
                        yield output
                return
            await self._gate.enter()
            taken: list[str] = []
            _several.set(taken)
            try:
                async with aclosing(generate(obj, request)) as outputs:
                    async for output in outputs:
                        yield output
            finally:
                self._gate.leave()
                if taken:
                    self._exclude_several_answers(obj)

        return generate_inside

    def recording(self, stream: Callable[..., Outputs]) -> Callable[..., Outputs]:
        """SGLang's `_stream_one_response`, which also binds the request and records how it ends."""
        from sglang.srt.managers.io_struct import GenerateReqInput

        def stream_and_record(
            obj: "GenerateReqInput", state: "ReqState", request: object | None = None
        ) -> Outputs:
            outputs = stream(obj=obj, state=state, request=request)
            if not isinstance(obj, GenerateReqInput) or self._is_health_check(obj.rid):
                return outputs
            if _parameters(obj).get("n", 1) != 1:
                several = _several.get()
                if several is not None:
                    several.append(obj.rid)
                return outputs
            assignment, bound = self._bind(obj)
            return self._recorded(outputs, assignment, bound, state)

        return stream_and_record

    async def _recorded(
        self, outputs: Outputs, assignment: Assignment, bound: BoundRequest, state: "ReqState"
    ) -> AsyncGenerator[dict[str, Any], None]:
        is_ended = False
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    if not is_ended and output["meta_info"]["finish_reason"] is not None:
                        is_ended = True
                        self._finish(bound, output["meta_info"], state)
                    yield output
        finally:
            # The client left, or SGLang gave up; both come as an error or as the generator's end.
            if not is_ended:
                self._book.add(excluded_record(bound, "aborted", ABORTED))
            self._fleet.release(assignment)

    def _finish(self, bound: BoundRequest, meta_info: dict[str, Any], state: "ReqState") -> None:
        """Record an ended request; whatever goes wrong is counted and never reaches it."""
        try:
            gathered = state.customized_info_accumulated
            steps = ServedSteps(gathered.get(STEPS, ()), gathered.get(REVISION, ()))
            record = served_record(bound, meta_info, steps, self._num_draft_tokens)
        except Exception as error:  # noqa: BLE001  (no answer may fail over its statistics)
            self._book.lose("record", error)
            record = excluded_record(bound, "no_record", str(meta_info["finish_reason"]["type"]))
        self._book.add(record)

    def _bind(self, obj: "GenerateReqInput") -> tuple[Assignment, BoundRequest]:
        kept_id = recorded_id(obj.rid)
        assignment = self._fleet.assign(kept_id, wanted=None, may_shadow=False)
        return assignment, BoundRequest(kept_id, assignment.serving, self._workload_of(obj))

    def _workload_of(self, obj: "GenerateReqInput") -> str:
        """The label to count a request under; a tag that is not configured is counted too."""
        tag = (_parameters(obj).get("custom_params") or {}).get(WORKLOAD_TAG, workload_of_header())
        if isinstance(tag, str) and tag in self._workloads:
            return tag
        if tag not in (None, OTHER_WORKLOAD):
            self._metrics.unknown_workload()
        return OTHER_WORKLOAD

    def _exclude_several_answers(self, obj: "GenerateReqInput") -> None:
        for prompt in [obj] if obj.is_single else [obj[i] for i in range(obj.batch_size)]:
            assignment, bound = self._bind(prompt)
            self._book.add(excluded_record(bound, "several_outputs", "unknown"))
            self._fleet.release(assignment)


def _parameters(obj: "GenerateReqInput") -> dict[str, Any]:
    parameters = obj.sampling_params
    return parameters if isinstance(parameters, dict) else {}
