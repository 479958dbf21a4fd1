"""Puts the acceptance of a request on the span that the engine makes of it.

vLLM makes and ends the span in one call, right after it has handed over the request's last output.
Around that call the attributes are in OpenTelemetry's context, from where a span processor adds
them as the span starts.
"""

import logging
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from opentelemetry import context, trace
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider

from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.vllm_engine.answer_record import excluded_record, join_cut_steps, served_record
from dpace_serve.vllm_engine.arrivals import Arrivals
from dpace_serve.vllm_engine.bound_request import BoundRequest

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.v1.engine import EngineCoreOutput
    from vllm.v1.engine.output_processor import OutputProcessor, RequestState
    from vllm.v1.metrics.stats import IterationStats

logger = logging.getLogger(__name__)

Attributes = Mapping[str, str | int | float]

_KEY = context.create_key("dpace-attributes")


class AcceptanceOnSpans(SpanProcessor):
    """Adds the attributes of the current context to every span that starts in it."""

    def on_start(self, span: Span, parent_context: context.Context | None = None) -> None:  # noqa: ARG002  (OpenTelemetry's signature)
        """Add them; the parent's context is the client's and knows nothing of them."""
        attributes = context.get_value(_KEY)
        if isinstance(attributes, Mapping):
            span.set_attributes(attributes)


def install(
    output_processor: "OutputProcessor", arrivals: Arrivals, on_lost: Callable[[Exception], None]
) -> None:
    """Let the spans of an engine whose tracing is on carry acceptance.

    Args:
        output_processor: The engine's maker of spans.
        arrivals: Knows the drafters of running requests.
        on_lost: Called for a span that our own code failed at; it is made without.
    """
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        logger.warning("spans carry no acceptance: OpenTelemetry's SDK is not in use.")
        return
    provider.add_span_processor(AcceptanceOnSpans())
    do_tracing = output_processor.do_tracing

    def do_tracing_with_acceptance(
        engine_core_output: "EngineCoreOutput",
        req_state: "RequestState",
        iteration_stats: "IterationStats | None",
    ) -> None:
        attributes: Attributes = {}
        try:
            attributes = _attributes_of(req_state, arrivals)
        except Exception as error:  # noqa: BLE001  (it would end every request of the engine)
            on_lost(error)
        token = context.attach(context.set_value(_KEY, attributes))
        try:
            do_tracing(engine_core_output, req_state, iteration_stats)
        finally:
            context.detach(token)

    output_processor.do_tracing = do_tracing_with_acceptance


def span_attributes(record: RequestAcceptance) -> Attributes:
    """What a span says of a record; a request that is not counted has no counts here either."""
    named: dict[str, str | int | float] = {
        "dpace.drafter": record.drafter,
        "dpace.revision": record.revision,
        "dpace.arm": record.arm,
        "dpace.workload": record.workload,
    }
    if record.excluded is not None:
        return {**named, "dpace.excluded": record.excluded}
    return {
        **named,
        "dpace.tau": record.tau,
        "dpace.verification_steps": record.steps,
        "dpace.accepted_tokens": sum(record.per_step_accepted),
        "dpace.drafted_tokens": sum(record.per_step_drafted),
    }


def _attributes_of(req_state: "RequestState", arrivals: Arrivals) -> Attributes:
    request = arrivals.find(req_state.external_req_id)
    if request is None:
        return {}
    return span_attributes(_record_of(req_state, request))


def _record_of(req_state: "RequestState", request: BoundRequest) -> RequestAcceptance:
    """The record that the recorder will make of the same output, which waits to be fetched."""
    if req_state.parent_req is not None:  # one of several answers
        return excluded_record(request, request.assignment.serving, "several_outputs", "")
    output = _with_own_counts(req_state.queue.output)
    return served_record(request, output, 1, join_cut_steps(output))


def _with_own_counts(output: "RequestOutput") -> "RequestOutput":
    """A copy whose steps can be joined while those of the original stay for the recorder."""
    own = copy(output)
    own.outputs = [_answer_with_own_counts(answer) for answer in output.outputs]
    return own


def _answer_with_own_counts(answer: "CompletionOutput") -> "CompletionOutput":
    own, counts = copy(answer), answer.spec_decode_metrics
    if counts is not None:
        own.spec_decode_metrics = replace(
            counts,
            per_step_accepted=list(counts.per_step_accepted),
            per_step_drafted=list(counts.per_step_drafted),
        )
    return own
