"""SIGTERM while answers run: they end, and all that they leave behind is written."""

import json
import os
import signal

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

COMPLETIONS = "/v1/completions"
LONG_ANSWER = 300  # with the prompt it leaves room for a whole block, so every step drafts
STOP_SECONDS = 120
KEPT = {"vllm_xargs": {"dpace_workload": "json"}}


def test_an_answer_that_is_drained_leaves_its_records_and_its_tokens(open_live_server, texts):
    with open_live_server() as live:
        ended, drained = live.new_id(), live.new_id()
        body = {"prompt": texts[1], "max_tokens": LONG_ANSWER, "ignore_eos": True, **KEPT}
        with live.stream(COMPLETIONS, request_id=drained, **body) as chunks:
            next(chunks)
            live.ask(COMPLETIONS, request_id=ended, prompt=texts[2], max_tokens=8, ignore_eos=True)
            os.kill(live.served.process.pid, signal.SIGTERM)
            num_after = sum(1 for _ in chunks)
        assert num_after > 10  # most of the answer came after the signal
        assert live.served.process.wait(timeout=STOP_SECONDS) == 0
        rows = live.logged()
        captured = [
            json.loads(line)
            for file in sorted(live.capture.iterdir())
            for line in file.read_text().splitlines()
        ]
    served, shadow = of(rows, ended)
    assert (served["arm"], served["excluded"]) == ("champion", None)
    assert (shadow["arm"], shadow["excluded"]) == ("shadow", None)
    assert served["steps"] == shadow["steps"] > 0

    served, shadow = of(rows, drained)
    assert (served["arm"], served["excluded"]) == ("champion", None)
    assert served["finish_reason"] == "length"
    assert served["emitted_tokens"] == LONG_ANSWER - 1  # one came with the prompt
    # The engine takes calls until the last answer has ended, so its shadow was fetched too.
    assert (shadow["arm"], shadow["excluded"]) == ("shadow", None)
    assert served["steps"] == shadow["steps"] > 0
    assert [len(row["output_token_ids"]) for row in captured] == [LONG_ANSWER]
    assert len(rows) == 4


def of(rows, request_id):
    return [row for row in rows if row["request_id"] == f"cmpl-{request_id}-0"]
