"""Requests over HTTP that the statistics leave out or lump together, and who may read them."""

import time

import httpx2
import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

PROMPT = "The"
NUM_DRAFT_TOKENS = 7
COUNT_TIMEOUT_SECONDS = 20


def test_a_grammar_that_shortens_drafts_keeps_the_sums_closed(served):
    before, num_before = engines_counts(served), served.acceptance()["drafters"][0]["requests"]
    for digits in ("[0-9]{10,40}", "[0-9 ]{12,40}"):
        served.ask(
            "/v1/completions",
            prompt=PROMPT,
            max_tokens=24,
            structured_outputs={"regex": f"(ab|cd){digits}"},
        )
    after = served.acceptance(records=2)
    assert set(after["export_errors"].values()) == {0}
    assert after["drafters"][0]["requests"] == num_before + 2
    records = after["records"]
    assert any(min(record["per_step_drafted"]) < NUM_DRAFT_TOKENS for record in records)
    expected = {
        "drafts": sum(record["steps"] for record in records),
        "draft_tokens": sum(
            sum(record["per_step_drafted"]) + record["unsettled_drafted"] for record in records
        ),
        "accepted_tokens": sum(
            record["accepted"] + record["unsettled_accepted"] for record in records
        ),
    }
    wait_for(
        lambda: {name: count - before[name] for name, count in engines_counts(served).items()},
        expected,
    )


def test_an_answer_whose_grammar_refuses_every_draft_is_excluded(served):
    with excluding(served, "no_step"):
        served.ask(
            "/v1/completions",
            prompt=PROMPT,
            max_tokens=24,
            structured_outputs={"regex": "(ab|cd)[a-f0-9]{10,40}"},
        )


def test_several_answers_at_once_are_excluded(served):
    with excluding(served, "several_outputs"):
        served.ask("/v1/completions", prompt=PROMPT, max_tokens=8, n=2, temperature=1)


def test_a_stop_string_is_excluded(served):
    body = {"prompt": PROMPT, "max_tokens": 20, "ignore_eos": True}
    answer = served.ask("/v1/completions", **body)["choices"][0]["text"]
    with excluding(served, "stop_string"):
        stopped = served.ask("/v1/completions", **body, stop=[answer[len(answer) // 2 :][:4]])
    assert stopped["choices"][0]["finish_reason"] == "stop"


def test_an_answer_of_one_token_is_excluded(served):
    with excluding(served, "no_step"):
        served.ask("/v1/completions", prompt=PROMPT, max_tokens=1)


def test_a_prompt_of_one_token_beside_a_running_request_counts_no_step_that_nobody_drafted(served):
    before, num_before = engines_counts(served), len(served.acceptance(records=256)["records"])
    running = {"prompt": PROMPT, "max_tokens": 300, "ignore_eos": True, "stream": True}
    url, body = "/v1/completions", {"model": "tiny", "temperature": 0, **running}
    with served.client.stream("POST", url, json=body) as response:
        lines = response.iter_lines()
        next(lines)
        with excluding(served, "no_step"):
            served.ask(url, prompt=[45], max_tokens=1)
        served.ask(url, prompt=[45], max_tokens=20, ignore_eos=True)
        beside = served.acceptance(records=1)["records"][0]
        assert beside["emitted_tokens"] == 19
        assert sum(1 for _ in lines) > 10  # it was running all the while
    records = wait_for_records(served, num_before + 2)[num_before:]
    expected = {
        "drafts": sum(record["steps"] for record in records),
        "draft_tokens": sum(
            sum(record["per_step_drafted"]) + record["unsettled_drafted"] for record in records
        ),
        "accepted_tokens": sum(
            record["accepted"] + record["unsettled_accepted"] for record in records
        ),
    }
    wait_for(
        lambda: {name: count - before[name] for name, count in engines_counts(served).items()},
        expected,
    )


def test_a_client_that_leaves_is_excluded(served):
    with (
        excluding(served, "aborted"),
        served.client.stream(
            "POST",
            "/v1/completions",
            json={"prompt": PROMPT, "max_tokens": 300, "ignore_eos": True, "stream": True},
        ) as response,
    ):
        next(response.iter_lines())


def test_an_unknown_workload_is_other_and_counted(served):
    before = served.acceptance()["unknown_workload"]
    served.ask(
        "/v1/completions",
        prompt=PROMPT,
        max_tokens=4,
        ignore_eos=True,
        vllm_xargs={"dpace_workload": "weather"},
    )
    after = served.acceptance(records=1)
    assert after["unknown_workload"] == before + 1
    assert after["records"][-1]["workload"] == "other"
    assert "weather" not in served.client.get("/metrics").text


SCORED = {"label_token_ids": [5, 6], "model": "tiny"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generative_scoring", {"query": "Is it?", "items": ["a", "b"], **SCORED}),
        (
            "/v1/chat/completions",
            {
                "model": "tiny",
                "messages": [{"role": "user", "content": "Is it?"}],
                "logprobs": True,
                "logprob_token_ids": [5, 6],
                "max_tokens": 1,
            },
        ),
        (
            "/v1/completions",
            {"model": "tiny", "prompt": PROMPT, "logprobs": 1, "logprob_token_ids": [5]},
        ),
    ],
    ids=["scoring", "chat", "completion"],
)
def test_scores_of_given_tokens_are_refused_and_the_engine_lives_on(served, path, body):
    """vLLM's rejection sampler would end the engine over them."""
    before = served.acceptance()
    response = served.client.post(path, json=body)
    assert response.status_code == 400, response.text
    assert "logprob_token_ids must be left out" in response.json()["error"]["message"]
    served.ask("/v1/completions", prompt=PROMPT, max_tokens=4)
    after = served.acceptance()
    assert after["excluded"] == before["excluded"]
    assert not any(after["export_errors"].values())


@pytest.mark.parametrize("header", [None, "Bearer wrong"])
def test_the_engines_key_guards_our_route(served, header):
    headers = {} if header is None else {"Authorization": header}
    url = served.client.base_url.join("/dpace/acceptance")
    response = httpx2.get(url, headers=headers, trust_env=False)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == 401
    assert httpx2.get(served.client.base_url.join("/health"), trust_env=False).status_code == 200


def test_a_bad_number_of_records_is_the_clients_error(served):
    response = served.client.get("/dpace/acceptance", params={"records": 10_000})
    assert response.status_code in (400, 422)
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


class excluding:  # noqa: N801  (reads as a statement)
    """Check that what happens inside is excluded once, for this reason, and not counted."""

    def __init__(self, served, reason):
        self.served, self.reason = served, reason

    def __enter__(self):
        self.before = self.served.acceptance()

    def __exit__(self, *error):
        if error[0] is not None:
            return
        expected = {**self.before["excluded"]}
        expected[self.reason] += 1
        wait_for(lambda: self.served.acceptance()["excluded"], expected)
        after = self.served.acceptance()
        assert after["drafters"][0] == self.before["drafters"][0]


def engines_counts(served):
    """What the engine itself counted of speculation."""
    samples = served.samples()
    return {
        name: samples[f"vllm:spec_decode_num_{name}_total"][0].value
        for name in ("drafts", "draft_tokens", "accepted_tokens")
    }


def wait_for(read, expected):
    """Counts travel apart from answers and may come a moment later."""
    deadline = time.monotonic() + COUNT_TIMEOUT_SECONDS
    while (found := read()) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found == expected


def wait_for_records(served, count):
    wait_for(lambda: len(served.acceptance(records=256)["records"]), count)
    return served.acceptance(records=256)["records"]
