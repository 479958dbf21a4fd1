"""A server with calibrated step times and tracing: its steps, its history and its spans."""

import http.server
import itertools
import json
import math
import socketserver
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dpace_serve.acceptance.request_id import hashed_id
from dpace_serve.demo import bundle
from dpace_serve.demo.prompts import read_prompts
from dpace_serve.drafter import checkpoint

pytestmark = [pytest.mark.engine, pytest.mark.slow]

DRAFTER = bundle.drafter_folder("dpace")
LENGTHS, BATCH_SIZES = (0, 1, 3, 7), (1, 4)
TOGETHER = 12
WINDOW_SECONDS = 60
EXPORT_SECONDS = 30
LONG_PROMPT = " ".join(f"Line {number}: the sum is {7 * number}." for number in range(25))


class SpanReceiver(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """A collector of OTLP over HTTP that keeps the spans of requests by request id."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), ReceivingHandler)
        self.spans = {}

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}/v1/traces"


class ReceivingHandler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        body = self.rfile.read(int(self.headers["Content-Length"]))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for span in (one for scope in resource.scope_spans for one in scope.spans):
                if span.name == "llm_request":
                    found = {one.key: plain(one.value) for one in span.attributes}
                    self.server.spans[found["gen_ai.request.id"]] = found
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        """Say nothing."""


def plain(value):
    return getattr(value, value.WhichOneof("value"))


@dataclass
class Traffic:
    """What was asked, and what the server said of it.

    Attributes:
        lone: Usage of each request that was alone, with the counters before and after it.
        together: Usage of the requests that ran side by side.
    """

    client: httpx2.Client
    spans: dict
    started: float
    lone: list
    together: list

    def counters(self):
        return counters(self.client)


@pytest.fixture(scope="module")
def receiver():
    with SpanReceiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def step_times(tmp_path_factory):
    file = tmp_path_factory.mktemp("times") / "tune.json"
    measured = [
        {"batch_size": size, "num_draft_tokens": length, "tau": 1.0, "tokens_per_second": 1.0,
         "step_ms": seconds_of(length, size) * 1000}
        for length, size in itertools.product(LENGTHS, BATCH_SIZES)
    ]  # fmt: skip
    schedule = {
        "format": 1,
        "target": "target",
        "drafter": "dpace",
        "revision": checkpoint.revision(DRAFTER),
        "num_draft_tokens": 7,
        "machine": {"device": "cpu", "cpu": "any", "num_cores": 1, "engine": "vllm 0.32.0"},
        "schedule": [[1, 8, 7]],
        "measured": measured,
    }
    file.write_text(json.dumps(schedule))
    return file


def seconds_of(length, size):
    """Any calibration that is linear, so that the truth is known at every batch size."""
    return 0.010 + 0.002 * length + 0.003 * size


@pytest.fixture(scope="module")
def traffic(serve, receiver, step_times):
    arguments = [
        str(bundle.target_folder()),
        "--drafter", str(DRAFTER),
        "--step-times", str(step_times),
        "--set", "dtype=float32",
        "--set", "eager=true",
        "--", "--max-model-len", "512", "--max-num-seqs", "8", "--max-num-batched-tokens", "96",
        "--otlp-traces-endpoint", receiver.endpoint,
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        with (
            serve(arguments) as (_, url),
            httpx2.Client(base_url=url, timeout=120, trust_env=False) as client,
        ):
            asked = Traffic(client, receiver.spans, time.monotonic(), [], [])
            for number, prompt in enumerate(["The sum is", LONG_PROMPT]):
                before = counters(client)
                usage = ask(client, f"lone-{number}", prompt)
                asked.lone.append((usage, before, counters(client)))
            prompts = [one.text for one in read_prompts(bundle.prompts_file())[:TOGETHER]]
            with ThreadPoolExecutor(6) as threads:
                names = [f"together-{number}" for number in range(TOGETHER)]
                asked.together = list(threads.map(ask, itertools.repeat(client), names, prompts))
            yield asked


def ask(client, name, prompt, **more):
    body = {
        "model": "target", "prompt": prompt, "temperature": 0, "max_tokens": 48,
        "ignore_eos": True, **more,
    }  # fmt: skip
    response = client.post("/v1/completions", json=body, headers={"X-Request-Id": name})
    assert response.status_code == 200, response.text
    return response.json()["usage"]


def counters(client):
    """Our counters of steps, without their prefix; those by length as a list."""
    found = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            name = sample.name.removeprefix("dpace_").removesuffix("_total")
            if name == "calibrated_step_seconds":
                found.setdefault(name, []).append(sample.value)
            elif "decode" in name and sample.name.startswith("dpace_"):
                found[name] = sample.value
    return found


def test_every_token_of_a_lone_answer_but_the_first_is_in_a_timed_step(traffic):
    # The second prompt is longer than a step may read, and steps that read are not timed.
    assert traffic.lone[1][0]["prompt_tokens"] > 2 * 96
    for usage, before, after in traffic.lone:
        grown = {name: after[name] - before[name] for name in after if "decode" in name}
        assert grown["decode_tokens"] == usage["completion_tokens"] - 1
        assert grown["decode_requests"] == grown["decode_steps"]  # a batch of one
        assert 0 < grown["decode_steps"] < grown["decode_tokens"]  # speculation works


def test_the_timed_steps_of_lone_answers_are_their_verification_steps(traffic):
    rows = traffic.client.get("/dpace/acceptance", params={"records": 256}).json()["records"]
    for number, (_, before, after) in enumerate(traffic.lone):
        shown = hashed_id(f"cmpl-lone-{number}-0")
        (row,) = (row for row in rows if row["request_id"] == shown)
        assert after["decode_steps"] - before["decode_steps"] == len(row["per_step_drafted"])


def test_answers_side_by_side_are_timed_together_and_never_more_than_all_tokens(traffic):
    before, after = traffic.lone[-1][2], traffic.counters()
    tokens = after["decode_tokens"] - before["decode_tokens"]
    steps = after["decode_steps"] - before["decode_steps"]
    decoded = sum(usage["completion_tokens"] - 1 for usage in traffic.together)
    assert decoded / 4 < tokens <= decoded  # steps that also read a prompt are not timed
    assert 1 < (after["decode_requests"] - before["decode_requests"]) / steps <= 6


def test_calibrated_times_are_those_of_the_file_at_the_batch_sizes_that_ran(traffic):
    # While each request was alone every step had a batch of one.
    _, _, after = traffic.lone[-1]
    expected = [after["decode_steps"] * seconds_of(length, 1) for length in LENGTHS]
    assert after["calibrated_step_seconds"] == pytest.approx(expected)
    assert after["plain_decode_seconds"] == pytest.approx(after["decode_tokens"] * seconds_of(0, 1))
    assert after["calibrated_decode_seconds"] == after["decode_seconds"]


def test_steps_above_the_calibrated_batch_sizes_are_in_no_comparison(traffic):
    found = traffic.counters()
    assert found["calibrated_decode_seconds"] < found["decode_seconds"]  # up to 6 ran at a time


def test_history_and_counters_agree_to_the_last_bit(traffic):
    time.sleep(max(0.0, traffic.started + 11 - time.monotonic()))
    history = traffic.client.get("/dpace/history").json()
    first, last = history["points"][0], history["points"][-1]
    found = traffic.counters()
    for name in ("decode_seconds", "plain_decode_seconds", "decode_tokens"):
        assert first[name] == 0
    time.sleep(max(0.0, last["time"] + 11 - time.time()))
    last = traffic.client.get("/dpace/history").json()["points"][-1]
    for name in (
        "decode_seconds", "calibrated_decode_seconds", "plain_decode_seconds", "decode_tokens",
    ):  # fmt: skip
        assert last[name] == found[name]
    (arm,) = last["arms"]
    assert arm["requests"] == len(traffic.lone) + len(traffic.together)


def test_the_speed_is_that_of_the_counters(traffic):
    ask(traffic.client, "for-the-speed", "The sum is")
    snapshot, found = traffic.client.get("/dpace/acceptance").json(), traffic.counters()
    speed = snapshot["speed"]
    assert 0 < speed["steps"] <= found["decode_steps"]
    if time.monotonic() - traffic.started < WINDOW_SECONDS - 1:  # everything is in the window
        assert speed["steps"] == found["decode_steps"]
        seconds = found["decode_seconds"]
        assert speed["step_ms"] == pytest.approx(1000 * seconds / found["decode_steps"])
        assert speed["tokens_per_second"] == pytest.approx(found["decode_tokens"] / seconds)
        speedup = found["plain_decode_seconds"] / found["calibrated_decode_seconds"]
        assert speed["speedup"] == pytest.approx(speedup)
    total = next(row for row in snapshot["drafters"] if "workload" not in row)
    times, line = found["calibrated_step_seconds"], speed["break_even"]
    assert [point["position"] for point in line] == list(range(1, 8))
    if speed["steps"] == found["decode_steps"]:
        assert line[0]["rate"] == pytest.approx((times[1] - times[0]) / times[0])
        tau = 1 + total["accepted_per_position"][0]
        third = times[1] + (times[2] - times[1]) / 2  # 2 lies between the measured 1 and 3
        assert line[1]["rate"] == pytest.approx(tau * (third - times[1]) / times[1])


def test_the_span_of_every_request_carries_its_record(traffic):
    rows = traffic.client.get("/dpace/acceptance", params={"records": 256}).json()["records"]
    assert len(rows) >= len(traffic.lone) + len(traffic.together)
    # The spans are the operator's and have the ids; this client, without the admin key, has hashes.
    spans = wait_for_spans(traffic.spans, [row["request_id"] for row in rows])
    for row in rows:
        span = spans[row["request_id"]]
        accepted, steps = sum(row["per_step_accepted"]), len(row["per_step_drafted"])
        assert {key: value for key, value in span.items() if key.startswith("dpace.")} == {
            "dpace.drafter": "dpace",
            "dpace.revision": checkpoint.revision(DRAFTER),
            "dpace.arm": "champion",
            "dpace.workload": row["workload"],
            "dpace.tau": 1 + accepted / steps,
            "dpace.verification_steps": steps,
            "dpace.accepted_tokens": accepted,
            "dpace.drafted_tokens": sum(row["per_step_drafted"]),
        }
        assert math.isfinite(span["dpace.tau"])


def test_the_span_of_an_answer_that_a_stop_string_ended_says_that_it_is_not_counted(traffic):
    ask(traffic.client, "stopped", "The sum is", stop=["1", "2", "e", " "], ignore_eos=False)
    deadline = time.monotonic() + EXPORT_SECONDS
    while not (found := [one for one in traffic.spans if "stopped" in one]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    span = traffic.spans[found[0]]
    assert span["dpace.excluded"] == "stop_string"
    assert "dpace.tau" not in span


def wait_for_spans(spans, hashed_ids):
    deadline = time.monotonic() + EXPORT_SECONDS
    while missing := set(hashed_ids) - {hashed_id(one) for one in list(spans)}:
        assert time.monotonic() < deadline, missing
        time.sleep(0.1)
    return {hashed_id(one): span for one, span in list(spans.items())}
