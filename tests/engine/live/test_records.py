"""What every request leaves behind: a record for each of its drafters, counted everywhere alike."""

import json

import httpx2
import pytest

from tests.engine.live.record_sums import require_same_sums

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

COMPLETIONS = "/v1/completions"
BOTH = [("dpace", "champion"), ("dflash", "shadow")]
ENDLESS = {"max_tokens": 400, "ignore_eos": True}


def arms_of(records):
    return [(record["drafter"], record["arm"]) for record in records]


def test_a_finished_request_leaves_a_record_of_each_drafter(live, texts):
    request_id = live.new_id()
    answer = live.ask(COMPLETIONS, request_id=request_id, prompt=texts[1], max_tokens=40)
    served, shadow = live.records(request_id, 2)
    assert arms_of([served, shadow]) == BOTH
    assert served["excluded"] is shadow["excluded"] is None
    assert served["finish_reason"] == shadow["finish_reason"]
    steps = answer["metrics"]["speculative_decoding"]
    assert served["steps"] == shadow["steps"] == steps["num_spec_steps"]
    # One token comes from the prompt's own pass.
    assert served["emitted_tokens"] == answer["usage"]["completion_tokens"] - 1
    assert shadow["emitted_tokens"] == 0
    revisions = {slot["name"]: slot["revision"] for slot in live.slots()}
    assert [served["revision"], shadow["revision"]] == [revisions["dpace"], revisions["dflash"]]


def test_a_client_that_leaves_a_stream_leaves_aborted_records(live, texts):
    request_id = live.new_id()
    with live.stream(COMPLETIONS, request_id=request_id, prompt=texts[1], **ENDLESS) as chunks:
        next(chunks)
        next(chunks)
    require_aborted(live.records(request_id, 2))


def test_a_client_that_leaves_without_a_stream_leaves_aborted_records(live, texts):
    request_id = live.new_id()
    with pytest.raises(httpx2.ReadTimeout):
        live.client.post(
            COMPLETIONS,
            json={"model": "tiny", "prompt": texts[1], **ENDLESS},
            headers={"X-Request-Id": request_id},
            timeout=1,
        )
    require_aborted(live.records(request_id, 2))


def require_aborted(records):
    assert arms_of(records) == BOTH
    assert {record["excluded"] for record in records} == {"aborted"}
    assert {record["finish_reason"] for record in records} == {"abort"}


@pytest.mark.parametrize(
    "body",
    [
        {"max_tokens": 4, "structured_outputs": {"regex": "(never closed"}},
        {"max_tokens": 4, "logit_bias": {"999999": 1}},
        {"max_tokens": 4, "vllm_xargs": {"dpace_drafter": "unheard-of"}},
        {"max_tokens": 600},
        {"max_tokens": -1},
    ],
    ids=["grammar", "token id", "drafter", "length", "negative"],
)
def test_a_refused_request_leaves_no_record_and_holds_no_drafter(live, texts, body):
    request_id = live.new_id()
    response = live.post(COMPLETIONS, request_id=request_id, prompt=texts[1], **body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == 400
    live.wait_until_idle()
    after_it = live.new_id()
    live.ask(COMPLETIONS, request_id=after_it, prompt=texts[1], max_tokens=4)
    live.records(after_it, 2)
    assert live.records(request_id, 0) == []


@pytest.mark.parametrize(
    ("body", "reason", "arms"),
    [
        ({"n": 2, "temperature": 1, "max_tokens": 8}, "several_outputs", BOTH[:1]),
        (
            {"structured_outputs": {"regex": "(ab|cd)[0-9]{12,40}"}, "max_tokens": 24},
            None,
            BOTH[:1],
        ),
        ({"max_tokens": 1}, "no_step", BOTH),
        ({"stop": [" "], "max_tokens": 60}, "stop_string", BOTH),
    ],
    ids=["several answers", "grammar", "one token", "stop string"],
)
def test_what_cannot_be_compared_is_not_shadowed_or_excluded_in_both_arms(
    live, texts, body, reason, arms
):
    request_id = live.new_id()
    live.ask(COMPLETIONS, request_id=request_id, prompt=texts[1], **body)
    after_it = live.new_id()
    live.ask(COMPLETIONS, request_id=after_it, prompt=texts[1], max_tokens=4)
    live.records(after_it, 2)
    records = live.records(request_id, len(arms))
    assert arms_of(records) == arms
    assert {record["excluded"] for record in records} == {reason}


def test_a_request_may_name_its_drafter_and_then_nobody_shadows_it(live, texts):
    steps = {}
    for name, expected in (("dflash", [("dflash", "challenger")]), ("dpace", BOTH)):
        request_id = live.new_id()
        body = {"prompt": texts[1], "max_tokens": 60, "vllm_xargs": {"dpace_drafter": name}}
        live.ask(COMPLETIONS, request_id=request_id, **body)
        records = live.records(request_id, len(expected))
        assert arms_of(records) == expected
        steps[name] = records[0]["per_step_accepted"]
    assert steps["dflash"] != steps["dpace"]
    body["vllm_xargs"] = {"dpace_drafter": "unheard-of"}
    refused = live.post(COMPLETIONS, request_id=live.new_id(), **body)
    assert refused.status_code == 400
    message = refused.json()["error"]["message"]
    assert message.startswith("the drafter must be one of ")
    assert "dpace" in message
    assert "dflash" in message


def test_what_a_client_writes_in_our_own_place_changes_nothing(live, texts):
    """Slot 1 holds another drafter, which steps otherwise, and slot 7 does not exist."""
    found = []
    for forged in (None, [1, 1], [1, 7], [1, 0, 2]):
        request_id = live.new_id()
        tags = {} if forged is None else {"vllm_xargs": {"dpace": forged}}
        live.ask(COMPLETIONS, request_id=request_id, prompt=texts[1], max_tokens=60, **tags)
        records = live.records(request_id, 2)
        assert arms_of(records) == BOTH
        found.append([record["per_step_accepted"] for record in records])
    assert all(steps == found[0] for steps in found)


@pytest.mark.parametrize(
    ("header", "tag", "expected"),
    [
        ("csv", None, "csv"),
        (None, "sql", "sql"),
        ("csv", "sql", "sql"),
        ("weather", None, "other"),
        (None, None, "other"),
    ],
)
def test_the_workload_comes_in_a_header_or_a_tag(live, texts, header, tag, expected):
    request_id = live.new_id()
    headers = {"X-Request-Id": request_id}
    headers |= {} if header is None else {"X-DPACE-Workload": header}
    body = {"model": "tiny", "prompt": texts[1], "max_tokens": 8, "ignore_eos": True}
    body |= {} if tag is None else {"vllm_xargs": {"dpace_workload": tag}}
    unknown = live.client.get("/dpace/acceptance").json()["unknown_workload"]
    assert live.client.post(COMPLETIONS, json=body, headers=headers).status_code == 200
    assert [record["workload"] for record in live.records(request_id, 2)] == [expected] * 2
    after = live.client.get("/dpace/acceptance").json()["unknown_workload"]
    assert after == unknown + (header == "weather")


def test_captured_are_the_tokens_of_what_the_operator_allows(live, texts):
    expected = []
    body = {"prompt": texts[1], "max_tokens": 30, "return_token_ids": True}
    for tags in ({"dpace_workload": "json"}, {"dpace_workload": "code"},
                 {"dpace_workload": "json", "dpace_capture": 0}):  # fmt: skip
        choice = live.ask(COMPLETIONS, **body, vllm_xargs=tags)["choices"][0]
        expected.append((choice["prompt_token_ids"], choice["token_ids"]))
        with live.stream(COMPLETIONS, request_id=live.new_id(), **body, vllm_xargs=tags) as chunks:
            assert len(list(chunks)) > 1
    # Its beams lose the refusal on their way into the engine.
    beams = {"use_beam_search": True, "n": 2, "vllm_xargs": {"dpace_capture": 0}}
    searched = {"model": "tiny", "prompt": texts[1], "max_tokens": 3, **beams}
    response = live.client.post(COMPLETIONS, json=searched, headers={"X-DPACE-Workload": "json"})
    assert response.status_code == 200, response.text
    live.wait_until_idle()
    kept = live.wait_for(lambda: captured(live), lambda found: len(found) >= 2)
    assert [(row["prompt_token_ids"], row["output_token_ids"]) for row in kept] == expected[:1] * 2
    assert {(row["workload"], row["drafter"], row["model"]) for row in kept} == {
        ("json", "dpace", "tiny")
    }


def captured(live):
    files = sorted(live.capture.iterdir())
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_the_log_the_metrics_and_the_json_have_the_same_sums(live):
    require_same_sums(live)
