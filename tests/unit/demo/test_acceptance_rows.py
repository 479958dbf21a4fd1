"""Which of a server's records belong to the answers that were received."""

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from prometheus_client import CollectorRegistry

from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.acceptance.request_id import hashed_id
from dpace_serve.acceptance.shadow import ShadowSteps
from dpace_serve.demo.acceptance_rows import fetch_rows
from dpace_serve.metrics.exporter import AcceptanceMetrics

WHO = {"drafter": "dpace", "revision": "1", "workload": "json", "finish_reason": "stop"}
SHADOW = RequestAcceptance.from_shadow(ShadowSteps((0,), (1,), (3,), 2), request_id="one", **WHO)
SERVED = RequestAcceptance(
    request_id="one",
    arm="champion",
    per_step_accepted=(3,),
    per_step_drafted=(3,),
    emitted_tokens=4,
    unsettled_drafted=0,
    unsettled_accepted=0,
    **WHO,
)
EMPTY = RequestAcceptance.from_exclusion("no_step", request_id="two", arm="champion", **WHO)


@pytest.fixture
def url():
    metrics = AcceptanceMetrics(
        CollectorRegistry(), workloads=["json"], num_draft_tokens=3, method="dflash"
    )
    metrics.add_drafter("dpace", "1", 4, ["champion", "shadow"])
    metrics.observe(SHADOW)
    metrics.observe(SERVED)
    metrics.exclude(EMPTY)
    records = [
        record.to_dict() | {"request_id": hashed_id(record.request_id)}
        for record in (SHADOW, SERVED, EMPTY)
    ]
    body = json.dumps({**metrics.snapshot(), "records": records}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_answer_has_the_record_of_who_served_it_and_none_where_that_is_excluded(url):
    rows = fetch_rows(url, ["two", "one"], timeout_seconds=1)
    assert rows.num_draft_tokens == 3
    assert rows.records == (None, replace(SERVED, request_id=hashed_id("one")))
