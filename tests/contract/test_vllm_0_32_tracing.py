"""What acceptance on spans relies on inside vLLM 0.32."""

import inspect
from pathlib import Path

import pytest

from dpace_serve.live.assignment import Assignment, Binding
from dpace_serve.live.hosted import HostedDrafter
from dpace_serve.vllm_engine.answer_record import join_cut_steps, served_record
from dpace_serve.vllm_engine.bound_request import BoundRequest
from dpace_serve.vllm_engine.settlement import split_cut_step

pytestmark = [pytest.mark.engine, pytest.mark.slow]

NAMED = {
    "dpace.drafter": "a",
    "dpace.revision": "1f",
    "dpace.arm": "champion",
    "dpace.workload": "json",
}


class Arrived:
    """Requests that are running, by name."""

    def __init__(self):
        drafter = HostedDrafter("a", "1f", Path("a"), 8, 0)
        assignment = Assignment(0, Binding(0, drafter, "champion"), (), None, is_drawn=True)
        self.request = BoundRequest("r1", assignment, "json")

    def find(self, request_id):
        return self.request if request_id == "r1" else None


@pytest.fixture
def spans(monkeypatch):
    """Spans that ended, in a tracing of this test's own."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter.get_finished_spans
    provider.shutdown()


def ours(span):
    return {key: value for key, value in span.attributes.items() if key.startswith("dpace.")}


def counted(*steps, last_emitted=None):
    """The engine's counts of steps of 7 drafts; the last one's end is split off as it sends it."""
    from vllm.v1.metrics.stats import RequestSpecDecodeMetrics

    counts = RequestSpecDecodeMetrics.new(7)
    for accepted in steps:
        counts.observe(7, accepted, detailed=True)
    if last_emitted is not None:
        split_cut_step(counts, num_generated=steps[-1] + 1, num_emitted=last_emitted)
    return counts


def finish(
    counts, *, name="r1", arrived=None, lost=None, stop_reason=None, n=1, trace_headers=None
):
    """Install ours, let the engine's own processor end a request, and return its output."""
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
    from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
    from vllm.v1.engine.parallel_sampling import ParentRequest
    from vllm.v1.metrics.stats import IterationStats

    from dpace_serve.vllm_engine import tracing

    processor = OutputProcessor(None, log_stats=True, tracing_enabled=True)
    failures = [] if lost is None else lost
    tracing.install(processor, arrived or Arrived(), failures.append)
    params = SamplingParams(detokenize=False, n=n)
    request = EngineCoreRequest(
        request_id=f"{name}-random",
        external_req_id=name,
        prompt_token_ids=[1, 2],
        mm_features=None,
        sampling_params=params,
        pooling_params=None,
        arrival_time=1.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
    parent = ParentRequest(request) if n > 1 else None
    if parent is not None:
        request.request_id, request.sampling_params = parent.get_child_info(0)
    queue = RequestOutputCollector(params.output_kind, name)
    processor.add_request(request, None, parent, 0, queue)
    last = EngineCoreOutput(
        request_id=request.request_id,
        new_token_ids=[1, 2, 3],
        finish_reason=FinishReason.STOP if stop_reason else FinishReason.LENGTH,
        stop_reason=stop_reason,
        spec_decode_metrics=counts,
        trace_headers=trace_headers,
    )
    processor.process_outputs([last], 10.0, IterationStats())
    return queue.get_nowait()


def test_vllm_0_32_span_of_a_request_carries_its_record(spans):
    output = finish(counted(7, 0, 3))
    (span,) = spans()
    assert span.name == "llm_request"
    assert ours(span) == {
        **NAMED,
        "dpace.tau": pytest.approx(1 + 10 / 3),
        "dpace.verification_steps": 3,
        "dpace.accepted_tokens": 10,
        "dpace.drafted_tokens": 21,
    }
    assert span.attributes["gen_ai.request.id"] == "r1"  # vLLM's own are still there
    record = served_record(Arrived().request, output, 1, join_cut_steps(output))
    assert record.tau == span.attributes["dpace.tau"]


def test_vllm_0_32_span_leaves_what_is_past_the_end_out_as_the_record_does(spans):
    output = finish(counted(7, 5, last_emitted=2))
    (span,) = spans()
    # The last step emitted 2 of its 6 tokens, so it counts as 2 of 2.
    assert ours(span)["dpace.accepted_tokens"] == 9
    assert ours(span)["dpace.drafted_tokens"] == 9
    # The recorder still finds the split, and makes the same record.
    assert output.outputs[0].spec_decode_metrics.per_step_accepted == [7, 2, 3]
    record = served_record(Arrived().request, output, 1, join_cut_steps(output))
    assert (record.accepted, sum(record.per_step_drafted)) == (9, 9)
    assert record.unsettled_accepted == 3


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"counts": None}, "no_record"),
        ({"counts": "stop", "stop_reason": "END"}, "stop_string"),
        ({"counts": "zero"}, "no_step"),
        ({"counts": "stop", "n": 2}, "several_outputs"),
    ],
)
def test_vllm_0_32_span_of_a_request_that_is_not_counted_has_the_reason_and_no_counts(
    spans, given, reason
):
    made = {"stop": counted(7, 0), "zero": counted(), None: None}[given["counts"]]
    finish(**{**given, "counts": made})
    assert ours(spans()[0]) == {**NAMED, "dpace.excluded": reason}


def test_vllm_0_32_span_of_a_request_that_never_arrived_here_is_left_alone(spans):
    finish(counted(7, 0), name="another")
    assert ours(spans()[0]) == {}


def test_vllm_0_32_span_is_made_and_the_answer_sent_when_ours_fails(spans):
    lost = []
    output = finish(counted(7, 0, last_emitted=1), arrived="no arrivals", lost=lost)
    assert output.finished
    assert ours(spans()[0]) == {}
    assert isinstance(lost[0], AttributeError)


def test_vllm_0_32_span_stays_the_child_of_the_clients_span(spans):
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    finish(counted(7, 0), trace_headers={"traceparent": parent})
    (span,) = spans()
    assert format(span.parent.span_id, "016x") == "b7ad6b7169203331"
    assert ours(span)["dpace.tau"] == 4.5


def test_vllm_0_32_spans_of_others_carry_nothing(spans):
    from opentelemetry import trace

    finish(counted(7, 0))
    trace.get_tracer("theirs").start_span("theirs").end()
    assert [bool(ours(span)) for span in spans()] == [True, False]


def test_vllm_0_32_span_is_made_in_one_call_after_the_output_was_handed_over():
    from vllm.v1.engine.output_processor import OutputProcessor

    source = inspect.getsource(OutputProcessor.process_outputs)
    handed_over = source.index("req_state.queue.put(request_output)")
    assert handed_over < source.index("self.do_tracing(engine_core_output, req_state,")
    assert source.count("do_tracing(") == 1
    assert "await" not in source
    assert list(inspect.signature(OutputProcessor.do_tracing).parameters) == [
        "self",
        "engine_core_output",
        "req_state",
        "iteration_stats",
    ]


def test_vllm_0_32_tracing_is_on_exactly_where_it_has_an_endpoint():
    from vllm.v1.engine.async_llm import AsyncLLM

    source = inspect.getsource(AsyncLLM.__init__)
    assert "tracing_enabled=tracing_endpoint is not None" in source


def test_vllm_0_32_requests_keep_the_name_that_they_were_asked_under():
    from vllm.v1.engine.input_processor import InputProcessor

    source = inspect.getsource(InputProcessor.assign_request_id)
    assert "request.external_req_id = request.request_id" in source
