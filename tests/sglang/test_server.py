"""The real server: one record for each request, and the same numbers wherever one looks."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

pytestmark = [pytest.mark.sglang]

PROMPT = "SELECT name FROM"
WAIT_SECONDS = 60


def exclusions(served):
    return Counter(served.acceptance()["excluded"])


def wait_for(condition):
    """SGLang sees after some seconds only that a client has left."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def by_count(histogram):
    return Counter({accepted: steps for accepted, steps in enumerate(histogram) if steps})


def test_the_hooks_sums_the_histograms_and_the_records_agree_exactly(served, prompts):
    before = by_count(served.state()["verified_steps"])
    lengths = [2, 9, 17, 33]
    with ThreadPoolExecutor(4) as pool:  # several in a batch, of different lengths
        answers = list(
            pool.map(
                lambda case: served.generate(case[1], max_tokens=lengths[case[0] % 4]),
                enumerate(prompts),
            )
        )
    told = [by_count(answer["meta_info"].get("spec_correct_drafts_histogram", []))
            for answer in answers]  # fmt: skip
    assert by_count(served.state()["verified_steps"]) - before == sum(told, Counter())
    assert sum(told, Counter()).total() > 100
    for answer, histogram in zip(answers, told, strict=True):
        record = served.record(answer["meta_info"]["id"])
        accepted = record["accepted"] + record["unsettled_accepted"]
        assert record["steps"] == histogram.total()
        assert accepted == sum(count * steps for count, steps in histogram.items())
        assert sum(record["per_step_drafted"]) + record["unsettled_drafted"] == 7 * record["steps"]
        assert record["emitted_tokens"] == answer["meta_info"]["completion_tokens"] - 1


def test_a_client_sees_nothing_of_what_is_noted(served):
    answer = served.generate(PROMPT, max_tokens=8)
    assert not [key for key in answer["meta_info"] if "dpace" in key]
    chunks = served.client.post(
        "/generate",
        json={
            "text": PROMPT,
            "stream": True,
            "sampling_params": {"temperature": 0, "max_new_tokens": 8},
        },
    )
    assert chunks.status_code == 200
    assert "dpace" not in chunks.text


def test_a_stream_leaves_the_record_of_the_whole_answer(served):
    whole = served.generate(PROMPT, max_tokens=30, ignore_eos=True)
    chunks = served.stream("/v1/completions", prompt=PROMPT, max_tokens=30, ignore_eos=True)
    assert len(chunks) > 1
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["text"]
    first, second = served.record(whole["meta_info"]["id"]), served.record(chunks[0]["id"])
    assert first["per_step_accepted"] == second["per_step_accepted"]
    assert first["emitted_tokens"] == second["emitted_tokens"] == 29


def test_an_answer_that_a_stop_string_ends_is_counted_to_there(served):
    whole = served.generate(PROMPT, max_tokens=30, ignore_eos=True)
    text = whole["text"]
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    answer = served.generate(PROMPT, max_tokens=30, ignore_eos=True, stop=[stop])
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    record = served.record(answer["meta_info"]["id"])
    emitted = answer["meta_info"]["completion_tokens"] - 1
    assert record["emitted_tokens"] == emitted < 29
    cut = int(record["unsettled_drafted"] > 0 or record["unsettled_accepted"] > 0)
    assert (
        record["accepted"] + record["steps"] - cut
        <= emitted
        <= (record["accepted"] + record["steps"])
    )


@pytest.mark.parametrize(
    ("tag", "header", "label"),
    [
        ("json", None, "json"),
        (None, "csv", "csv"),
        ("sql", "csv", "sql"),
        (None, None, "other"),
        ("<script>", None, "other"),
        (["json"], None, "other"),
    ],
)
def test_a_workload_is_one_of_the_configured_labels(served, tag, header, label):
    body = {
        "text": PROMPT,
        "sampling_params": {
            "temperature": 0,
            "max_new_tokens": 8,
            "custom_params": None if tag is None else {"dpace_workload": tag},
        },
    }
    unknown = served.acceptance()["unknown_workload"]
    headers = {} if header is None else {"X-DPACE-Workload": header}
    answer = served.client.post("/generate", json=body, headers=headers).json()
    assert served.record(answer["meta_info"]["id"])["workload"] == label
    is_unknown = tag not in (None, "json", "sql")
    assert served.acceptance()["unknown_workload"] - unknown == is_unknown


def test_several_answers_are_one_record_that_is_left_out(served):
    before = exclusions(served)
    answer = served.ask("/v1/completions", prompt=PROMPT, n=3, max_tokens=8)
    assert len(answer["choices"]) == 3
    assert exclusions(served) - before == Counter(several_outputs=1)


def test_an_answer_of_one_token_has_no_step(served):
    before = exclusions(served)
    served.generate(PROMPT, max_tokens=1)
    assert exclusions(served) - before == Counter(no_step=1)


def test_records_are_followed_by_number_whether_counted_or_left_out(served, admin):
    path = "/dpace/acceptance/records"
    before = admin.get(path, params={"limit": 0}).json()
    counted = served.generate(PROMPT, max_tokens=8)
    served.generate(PROMPT, max_tokens=1)
    after = admin.get(path, params={"after": before["newest"]}).json()
    assert after["boot"] == before["boot"]
    first, second = after["records"]
    numbers = [row["sequence"] - before["newest"] for row in (first, second)]
    assert numbers == [1, 2]
    assert {**first, **served.record(counted["meta_info"]["id"])} == first
    assert second["excluded"] == "no_step"


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_client_that_leaves_leaves_one_record_that_is_left_out(served, is_streamed):
    before, requests = exclusions(served), served.acceptance()["drafters"][0]["requests"]
    body = {
        "text": PROMPT,
        "stream": is_streamed,
        "sampling_params": {"temperature": 0, "max_new_tokens": 1900, "ignore_eos": True},
    }
    if is_streamed:  # a timeout is of each chunk, and chunks may come faster
        with served.client.stream("POST", "/generate", json=body) as response:
            next(response.iter_lines())
    else:
        with pytest.raises(httpx2.TimeoutException):
            served.client.post("/generate", json=body, timeout=1.0)
    wait_for(lambda: exclusions(served) != before)
    assert exclusions(served) - before == Counter(aborted=1)
    assert served.acceptance()["drafters"][0]["requests"] == requests
    wait_for(lambda: running(served) == 0)


def running(served):
    return served.client.get("/dpace/drafters").json()["drafters"][0]["running"]


def test_a_request_that_is_refused_leaves_no_record(served):
    before = served.acceptance()
    body = {"text": PROMPT, "sampling_params": {"max_new_tokens": 10, "min_new_tokens": 20}}
    assert served.client.post("/generate", json=body).status_code == 400
    long = {"model": "tiny", "prompt": [5] * 3000, "max_tokens": 5}
    assert served.client.post("/v1/completions", json=long).status_code == 400
    after = served.acceptance()
    assert (after["excluded"], after["drafters"][0]) == (before["excluded"], before["drafters"][0])
    assert running(served) == 0


def test_the_servers_own_health_check_is_no_request(served):
    before = served.acceptance()
    assert served.client.get("/health_generate").status_code == 200
    assert served.acceptance()["excluded"] == before["excluded"]


def test_the_metrics_are_the_sums_beside_sglangs_own(served):
    served.generate(PROMPT, max_tokens=20)
    samples, document = served.samples(), served.acceptance()
    total = document["drafters"][0]
    drafter = {"drafter": total["drafter"], "revision": total["revision"], "arm": "champion"}

    def summed(name, **labels):
        wanted = drafter | labels
        return sum(
            sample.value
            for sample in samples[name]
            if wanted.items() <= sample.labels.items()
        )  # fmt: skip

    assert summed("dpace_verification_steps_total") == total["steps"]
    assert summed("dpace_emitted_tokens_total") == total["emitted_tokens"]
    assert summed("dpace_acceptance_requests_total") == total["requests"]
    for position in range(1, 8):
        for name in ("accepted", "drafted"):
            metric = f"dpace_{name}_tokens_total"
            assert summed(metric, position=str(position)) == total[name][position - 1]
    (loaded,) = [sample for sample in samples["dpace_drafter_info"] if sample.value]
    assert loaded.labels["drafter"] == total["drafter"]
    assert "sglang:num_requests_total" in samples
    assert not [name for name, found in samples.items()
                if name.startswith("dpace_") and "pid" in found[0].labels]  # fmt: skip


def test_nothing_was_lost_or_contradicted_sglangs_account(served):
    document = served.acceptance()
    assert not any(document["export_errors"].values())
    assert document["excluded"]["no_record"] == 0


def test_there_is_nothing_to_decide_and_no_time_of_steps(served):
    verdict = served.client.get("/dpace/verdict").json()
    assert (verdict["champion"]["name"], verdict["comparisons"]) == ("dflash", [])
    assert served.acceptance()["speed"] is None
    assert served.client.get("/dpace/history").json()["points"]


def test_the_keys_open_what_they_open_with_vllm(served, admin):
    url = str(served.client.base_url)
    with httpx2.Client(base_url=url, trust_env=False, timeout=60) as nobody:
        assert nobody.get("/dpace/acceptance").status_code == 401
        assert nobody.get("/v1/models").status_code == 401
        assert nobody.get("/dpace/").status_code == 200
        assert nobody.get("/metrics").status_code == 401
    assert served.client.get("/v1/models").status_code == 200
    change = {"folder": "dpace"}
    assert served.client.put("/dpace/drafters/champion", json=change).status_code == 401
    assert admin.get("/dpace/drafters").status_code == 200
    assert admin.get("/v1/models").status_code == 401
