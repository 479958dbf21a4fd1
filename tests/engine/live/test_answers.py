"""A challenger in the shadow, and who serves, change no answer: compared with a server of one."""

import itertools

import pytest

from dpace_serve.demo import bundle
from dpace_serve.demo.prompts import read_prompts

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
SAMPLING = {
    "greedy": {"temperature": 0},
    "seeded": {"temperature": 1, "seed": 11},
    "with logprobs": {"temperature": 0.7, "seed": 3, "top_p": 0.9, "logprobs": True},
}
VARYING = {"id", "created", "system_fingerprint"}
"""Keys that differ between two requests to the same server."""


def asked(path, text, **body):
    given = {"messages": [{"role": "user", "content": text}]} if path == CHAT else {"prompt": text}
    if path == COMPLETIONS and body.get("logprobs"):
        body["logprobs"] = 2
    return {**given, "max_tokens": 64, "return_token_ids": True, **body}


def without_times(answer):
    """An answer without its id, the time of day, and how long it took."""
    kept = {key: value for key, value in answer.items() if key not in VARYING}
    if answer.get("metrics"):
        kept["metrics"] = answer["metrics"].get("speculative_decoding")
    return kept


def joined(chunks):
    """The content of a stream: how it is cut into chunks depends on the time they took."""
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    texts = [choice.get("text", choice.get("delta", {}).get("content")) for choice in choices]
    (usage,) = [without_times(chunk) for chunk in chunks if not chunk["choices"]]
    return {
        "text": "".join(text or "" for text in texts),
        "token_ids": [token for choice in choices for token in choice.get("token_ids") or ()],
        "finish_reason": choices[-1]["finish_reason"],
        "usage": usage,
    }


@pytest.fixture(scope="module")
def questions():
    given = read_prompts(bundle.prompts_file())
    first = {prompt.workload: prompt for prompt in reversed(given) if prompt.is_chat}
    return [prompt.text for prompt in first.values()]


@pytest.mark.parametrize("sampling", SAMPLING.values(), ids=SAMPLING)
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_a_challenger_changes_no_answer(live, alone, texts, questions, path, sampling):
    for text in (questions if path == CHAT else texts)[:3]:
        body = asked(path, text, **sampling)
        request_id = live.new_id()
        answer = without_times(live.ask(path, request_id=request_id, **body))
        assert answer == without_times(alone.ask(path, **body))
        arms = [record["arm"] for record in live.records(request_id, 2)]
        assert arms == ["champion", "shadow"], "a test that nobody shadows shows nothing"


@pytest.mark.parametrize("sampling", SAMPLING.values(), ids=SAMPLING)
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_a_challenger_changes_no_stream(live, alone, texts, questions, path, sampling):
    for text in (questions if path == CHAT else texts)[:2]:
        body = asked(path, text, **sampling, stream_options={"include_usage": True})
        with live.stream(path, request_id=live.new_id(), **body) as chunks:
            streamed = joined(list(chunks))
        assert streamed == joined(alone.stream(path, **body))
        assert streamed["text"]


@pytest.mark.parametrize(
    "body",
    [
        {"n": 2, "temperature": 1, "seed": 5},
        {"structured_outputs": {"regex": "(ab|cd)[0-9 ]{12,40}"}},
        {"stop": ["e"], "temperature": 1, "seed": 6},
        {"use_beam_search": True, "n": 3, "max_tokens": 12},
        {"max_tokens": 1},
        {"echo": True, "max_tokens": 9},
        {"min_tokens": 30, "presence_penalty": 0.5},
    ],
    ids=",".join,
)
def test_a_challenger_changes_no_unusual_answer(live, alone, texts, body):
    body = asked(COMPLETIONS, texts[1], **body)
    assert without_times(live.ask(COMPLETIONS, **body)) == without_times(
        alone.ask(COMPLETIONS, **body)
    )


def test_a_greedy_answer_has_the_same_tokens_whichever_drafter_serves_it(live, alone, texts):
    accepted = dict.fromkeys(("dpace", "dflash"), 0)
    for text, name in itertools.product(texts[:4], accepted):
        body = asked(COMPLETIONS, text)
        answer = live.ask(COMPLETIONS, **body, vllm_xargs={"dpace_drafter": name})
        assert answer["choices"] == alone.ask(COMPLETIONS, **body)["choices"]
        accepted[name] += answer["metrics"]["speculative_decoding"]["num_accepted_draft_tokens"]
    assert accepted["dpace"] != accepted["dflash"], "or one of them served both times"
