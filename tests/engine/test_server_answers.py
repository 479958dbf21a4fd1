"""Answers over HTTP and what is counted of them: records, counters and the engine's own sums.

The tests build on one another in the order of the file, and on a server that nobody asked before.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from dpace_serve.demo import bundle
from dpace_serve.demo.prompts import read_prompts

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

DRAFTER = "dpace"
STATISTICS_TIMEOUT_SECONDS = 20


@dataclass
class Asked:
    """What these tests asked for so far, and the records of it."""

    num_answers: int = 0
    num_tokens: int = 0
    records: list[dict[str, Any]] = field(default_factory=list)

    def note_answer(self, num_tokens: int) -> None:
        self.num_answers += 1
        self.num_tokens += num_tokens


@pytest.fixture(scope="module")
def asked():
    return Asked()


@pytest.fixture(scope="module")
def questions():
    given = read_prompts(bundle.prompts_file())
    return [prompt for prompt in given if prompt.is_chat][:6]


@pytest.fixture(scope="module")
def texts():
    given = read_prompts(bundle.prompts_file())
    return [prompt for prompt in given if not prompt.is_chat][:4]


def test_chat_answers_are_the_same_streamed_and_not(served, asked, questions):
    for question in questions:
        body = {
            "messages": [{"role": "user", "content": question.text}],
            "max_tokens": 60,
            "vllm_xargs": {"dpace_workload": question.workload},
        }
        whole = served.ask("/v1/chat/completions", **body)
        chunks = served.stream(
            "/v1/chat/completions", **body, stream_options={"include_usage": True}
        )
        streamed = "".join(
            chunk["choices"][0]["delta"].get("content") or ""
            for chunk in chunks
            if chunk["choices"]
        )
        assert streamed == whole["choices"][0]["message"]["content"]
        assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
        for _ in ("whole", "streamed"):
            asked.note_answer(whole["usage"]["completion_tokens"])


def test_completions_are_the_same_streamed_and_not(served, asked, texts):
    for text in texts:
        body = {
            "prompt": text.text,
            "max_tokens": 40,
            "vllm_xargs": {"dpace_workload": text.workload},
        }
        whole = served.ask("/v1/completions", **body)
        chunks = served.stream("/v1/completions", **body)
        streamed = "".join(chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"])
        assert streamed == whole["choices"][0]["text"]
        for _ in ("whole", "streamed"):
            asked.note_answer(whole["usage"]["completion_tokens"])


def test_every_token_limit_within_two_blocks_is_answered_in_full(served, asked, questions):
    for limit in range(2, 18):
        answer = served.ask(
            "/v1/chat/completions",
            messages=[{"role": "user", "content": questions[0].text}],
            max_tokens=limit,
            ignore_eos=True,
        )
        assert answer["usage"]["completion_tokens"] == limit
        steps = answer["metrics"]["speculative_decoding"]
        # The response is the engine's own: the split of a cut step is not in it.
        assert len(steps["per_step_accepted"]) == steps["num_spec_steps"]
        assert sum(steps["per_step_accepted"]) == steps["num_accepted_draft_tokens"]
        asked.note_answer(limit)


def test_the_records_add_up_to_the_answers(served, asked):
    snapshot = served.acceptance(records=256)
    asked.records = snapshot["records"]
    # An answer that ends with its first token was never verified.
    num_unverified = snapshot["excluded"].pop("no_step")
    assert set(snapshot["excluded"].values()) == {0}
    assert len(asked.records) + num_unverified == asked.num_answers
    # One token of each answer comes from the prompt's own pass.
    emitted = sum(record["emitted_tokens"] for record in asked.records)
    assert emitted == asked.num_tokens - asked.num_answers
    assert {record["finish_reason"] for record in asked.records} == {"stop", "length"}
    assert any(record["unsettled_accepted"] for record in asked.records)


def test_the_counters_are_the_sums_of_the_records(served, asked):
    counters = served.samples()
    workloads = {record["workload"] for record in asked.records}
    assert {"other", "code"} < workloads
    for workload in workloads:
        records = [record for record in asked.records if record["workload"] == workload]
        expected = sums_of(records)
        assert {name: value_of(counters[name], workload=workload) for name in expected} == expected
        for position in range(1, 8):
            for kind in ("drafted", "accepted"):
                value = value_of(
                    counters[f"dpace_{kind}_tokens_total"],
                    workload=workload,
                    position=str(position),
                )
                assert value == sum(
                    length >= position
                    for record in records
                    for length in record[f"per_step_{kind}"]
                )


def test_the_json_is_the_same_sums(served, asked):
    total = served.acceptance()["drafters"][0]
    expected = sums_of(asked.records)
    assert total["requests"] == expected["dpace_acceptance_requests_total"]
    assert total["steps"] == expected["dpace_verification_steps_total"]
    assert total["emitted_tokens"] == expected["dpace_emitted_tokens_total"]
    assert sum(total["accepted"]) == expected["dpace_acceptance_accepted_total"]


def test_the_engines_counters_are_ours_and_the_unsettled(served, asked):
    def unsettled(kind):
        return sum(record[f"unsettled_{kind}"] for record in asked.records)

    expected = {
        "vllm:spec_decode_num_drafts_total": sum(record["steps"] for record in asked.records),
        "vllm:spec_decode_num_draft_tokens_total": unsettled("drafted")
        + sum(sum(record["per_step_drafted"]) for record in asked.records),
        "vllm:spec_decode_num_accepted_tokens_total": unsettled("accepted")
        + sum(record["accepted"] for record in asked.records),
    }
    # The engine's statistics travel apart from its outputs and may come a moment later.
    deadline = time.monotonic() + STATISTICS_TIMEOUT_SECONDS
    while True:
        samples = served.samples()
        found = {name: samples[name][0].value for name in expected}
        if found == expected or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    assert found == expected


def test_the_drafter_is_named_with_its_revision(served):
    from dpace_serve.drafter import checkpoint

    folder = bundle.drafter_folder(DRAFTER)
    drafter = served.acceptance()["drafter"]
    assert drafter["name"] == DRAFTER
    assert drafter["revision"] == checkpoint.revision(folder)
    assert drafter["num_draft_tokens"] == checkpoint.read_config(folder).num_draft_tokens
    info = served.samples()["dpace_drafter_info"][0]
    assert info.labels["revision"] == drafter["revision"]


def sums_of(records):
    """Counters that records must add up to."""
    return {
        "dpace_verification_steps_total": sum(record["steps"] for record in records),
        "dpace_emitted_tokens_total": sum(record["emitted_tokens"] for record in records),
        "dpace_acceptance_requests_total": len(records),
        "dpace_acceptance_accepted_total": sum(record["accepted"] for record in records),
        "dpace_acceptance_steps_total": sum(record["steps"] for record in records),
        "dpace_acceptance_accepted_squared_total": sum(
            record["accepted"] ** 2 for record in records
        ),
        "dpace_acceptance_steps_squared_total": sum(record["steps"] ** 2 for record in records),
        "dpace_acceptance_accepted_steps_total": sum(
            record["accepted"] * record["steps"] for record in records
        ),
    }


def value_of(samples, **labels):
    (value,) = [
        sample.value
        for sample in samples
        if all(sample.labels[name] == label for name, label in labels.items())
    ]
    return value
