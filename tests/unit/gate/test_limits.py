"""How much a request may ask for: each limit at its edge, and ways around it."""

import json

import pytest

from dpace_serve.gate.refusal import RequestError
from dpace_serve.gate.request_check import check, num_prompts, parse
from dpace_serve.gate_config import LimitsConfig

from .conftest import message  # noqa: TID252 - tests have no package

LIMITS = LimitsConfig(
    max_prompt_characters=100,
    max_prompts=3,
    max_output_tokens=50,
    max_choices=2,
    max_stops=2,
    max_stop_characters=5,
    max_listed_tokens=3,
    max_logprobs=4,
    max_schema_kilobytes=1,
)
LONG = {"type": "object", "description": "x" * 1000}
CHOICE = {"type": "function", "function": {"name": "a"}}
NESTED = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}


def says(values, limits=LIMITS):
    with pytest.raises(RequestError) as caught:
        check(values, limits)
    assert caught.value.status == 400
    assert caught.value.reason == "request"
    return str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {}, {"n": 2}, {"n": 0}, {"n": None}, {"max_tokens": 50}, {"min_tokens": 50},
        {"max_completion_tokens": 1}, {"stop": "12345"}, {"stop": ["a", "b"]}, {"stop": []},
        {"stop_token_ids": [1, 2]}, {"bad_words": ["a"]}, {"logprobs": True}, {"logprobs": 4},
        {"top_logprobs": 4}, {"prompt_logprobs": 0}, {"logit_bias": {"1": 2, "2": 1, "3": 1}},
        {"prompt": "x" * 100}, {"prompt": [1] * 100}, {"prompt": ["a", "b", "c"]},
        {"messages": [{"role": "user", "content": "x" * 90}]}, {"allowed_token_ids": [1, 2, 3]},
        {"messages": [{"content": [{"type": "text", "text": "hi"}, {"type": "refusal"}]}]},
        {"response_format": {"type": "json_object"}}, {"request_id": "chat-1.a:b/c+d=_"},
        {"tool_choice": CHOICE, "tools": [{"type": "function", "function": {"name": "b"}}]},
        {"tool_choice": CHOICE}, {"tool_choice": "auto", "tools": [{"name": "of another API"}]},
        {"structured_outputs": None}, {"structured_outputs": {"regex": "a"}},
        {"unknown": "x" * 5000}, {"chat_template": None}, {"temperature": 3}, {"stream": True},
    ],
)  # fmt: skip
def test_what_lies_within_the_limits_is_let_through(values):
    check(values, LIMITS)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n": 3}, "n must be at most 2, got 3"),
        ({"best_of": 3}, "best_of must be at most 2, got 3"),
        ({"n": 16384}, "n must be at most 2, got 16384"),  # CVE-2026-34756: as vLLM would take it
        ({"n": "3"}, "n must be a whole number"),
        ({"n": 3.0}, "n must be a whole number"),
        ({"n": True}, "n must be a whole number"),
        ({"n": [3]}, "n must be a whole number"),
        ({"max_tokens": 51}, "max_tokens must be at most 50, got 51"),
        ({"max_tokens": 1e9}, "max_tokens must be a whole number"),
        ({"max_tokens": 10**4000}, "max_tokens must be at most 50, got far more."),
        ({"max_completion_tokens": 51}, "max_completion_tokens must be at most 50"),
        ({"min_tokens": 51}, "min_tokens must be at most 50"),
        ({"stop": ["a", "b", "c"]}, "entries of stop must be at most 2, got 3"),
        ({"stop": "123456"}, "characters of an entry of stop must be at most 5, got 6"),
        ({"stop": ["a", "123456"]}, "characters of an entry of stop must be at most 5"),
        ({"stop_token_ids": [1, 2, 3]}, "entries of stop_token_ids must be at most 2"),
        ({"stop_regex": "(a+)+$"}, "stop_regex is not open"),
        ({"bad_words": ["a", "b", "c"]}, "entries of bad_words must be at most 2"),
        ({"logprobs": 5}, "logprobs must be at most 4, got 5"),
        ({"top_logprobs": 5}, "top_logprobs must be at most 4"),
        ({"prompt_logprobs": -1}, "prompt_logprobs must be from 0 to 4"),
        ({"top_logprobs": -1}, "top_logprobs must be from 0 to 4"),
        ({"logprobs": "5"}, "logprobs must be a whole number"),
        ({"logit_bias": dict.fromkeys("1234", 1)}, "tokens in logit_bias must be at most 3"),
        ({"allowed_token_ids": [1, 2, 3, 4]}, "tokens in allowed_token_ids must be at most 3"),
        ({"logprob_token_ids": [1, 2, 3, 4]}, "tokens in logprob_token_ids must be at most 3"),
        ({"prompt": "x" * 101}, "characters in prompt must be at most 100, got 101"),
        ({"prompt": [1] * 101}, "characters in prompt must be at most 100, got 101"),
        ({"prompt": ["x" * 50, "y" * 51]}, "characters in prompt must be at most 100, got 101"),
        ({"prompt": [[1], [2], [3], [4]]}, "prompts in prompt must be at most 3, got 4"),
        ({"prompt": ["a"] * 4}, "prompts in prompt must be at most 3"),
        ({"prompt": [1, "a", 2, 3]}, "prompts in prompt must be at most 3"),
        ({"suffix": "x" * 101}, "characters in suffix must be at most 100"),
        ({"messages": [{"content": "x" * 101}]}, "characters in messages must be at most 100"),
        ({"messages": [{"tool_calls": [{"a": "x" * 101}]}]}, "characters in messages"),
        ({"messages": [{"content": [{"type": "text", "text": "x" * 101}]}]}, "characters in"),
        ({"response_format": {"json_schema": LONG}}, "schemas, grammars and tools must be at most"),
        ({"structured_outputs": {"json": LONG}}, "schemas, grammars and tools"),
        ({"tools": [LONG]}, "schemas, grammars and tools"),
        ({"regex": "a" * 1000}, "schemas, grammars and tools"),
        ({"tools": [{"d": "x" * 600}], "ebnf": "y" * 600}, "schemas, grammars and tools"),
        ({"messages": [{"content": [NESTED]}]}, "messages must be text"),
        ({"messages": [{"content": [{"image_url": "http://x"}]}]}, "messages must be text"),
        ({"messages": [{"content": NESTED}]}, "messages must be text"),
        ({"messages": [{"content": [{"type": "input_audio"}]}]}, "messages must be text"),
        ({"messages": [{"content": [{"type": ["text"]}]}]}, "messages must be text"),
        ({"chat_template": "{{ x }}"}, "chat_template is not open on this server"),
        ({"chat_template_kwargs": {}}, "chat_template_kwargs is not open"),
        ({"documents": [{}]}, "documents is not open"),
        ({"prompt_embeds": "AAAA"}, "prompt_embeds is not open"),
        ({"mm_processor_kwargs": {}}, "mm_processor_kwargs is not open"),
        ({"kv_transfer_params": {}}, "kv_transfer_params is not open"),
        ({"bootstrap_host": "10.0.0.1"}, "bootstrap_host is not open"),
        ({"custom_logit_processor": "x"}, "custom_logit_processor is not open"),
        ({"lora_path": "/etc"}, "lora_path is not open"),
        ({"priority": -1000}, "priority is not open"),
        ({"data_parallel_rank": 0}, "data_parallel_rank is not open"),
        ({"request_id": "a\nb"}, "a request's id must be 1 to 128 characters"),
        ({"request_id": "x" * 129}, "a request's id must be"),
        ({"session_id": ["a"]}, "a request's id must be"),
        ({"rid": "0"}, "rid is not open on this server"),  # of all whose ids begin so
        ({"return_sampling_mask": True}, "return_sampling_mask is not open"),
        ({"session_id": ""}, "a request's id must be"),
        # vLLM 0.32 answers 500: it looks into these before it has checked what they are.
        ({"structured_outputs": 1.5}, "structured_outputs must be an object"),
        ({"structured_outputs": "a"}, "structured_outputs must be an object"),
        ({"structured_outputs": []}, "structured_outputs must be an object"),
        ({"response_format": "json"}, "response_format must be an object"),
        ({"stream_options": []}, "stream_options must be an object"),
        ({"tool_choice": CHOICE, "tools": [{}]}, "each of tools must have a function with a name"),
        ({"tool_choice": CHOICE, "tools": [{"function": {}}]}, "each of tools must have"),
        ({"tool_choice": CHOICE, "tools": [{"function": "a"}]}, "each of tools must have"),
        ({"tool_choice": CHOICE, "tools": [1]}, "each of tools must have"),
        ({"tool_choice": CHOICE, "tools": {}}, "each of tools must have"),
    ],
)  # fmt: skip
def test_what_lies_beyond_is_refused_with_its_bound(values, words):
    assert says(values).startswith(words)


def test_tools_in_a_message_are_compiled_like_those_beside_it():
    limits = LIMITS.model_copy(update={"max_prompt_characters": 10_000})
    half = [{"d": "x" * 600}]
    for values in (
        {"messages": [{"tools": [LONG]}]},
        {"messages": [{"tools": half}, {"tools": half}]},
        {"messages": [{"tools": half}], "tools": half},
    ):
        assert says(values, limits).startswith("schemas, grammars and tools must be at most 1000")
    check({"messages": [{"tools": half}, {"tools": None}, {}, "x"]}, limits)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sampling_params": {"n": 3}}, "n must be at most 2, got 3"),
        ({"sampling_params": [{}, {"max_new_tokens": 51}]}, "max_new_tokens must be at most 50"),
        ({"sampling_params": {"stop_regex": "a"}}, "stop_regex is not open"),
        ({"sampling_params": {"is_normalized": True}}, "is_normalized is not open"),
        ({"text": "x" * 101}, "characters in text must be at most 100"),
        ({"text": ["a"] * 4}, "prompts in text must be at most 3, got 4"),
        ({"top_logprobs_num": 5}, "top_logprobs_num must be at most 4"),
        ({"top_logprobs_num": [5]}, "top_logprobs_num must be a whole number"),
        ({"token_ids_logprob": [[1, 2], [3, 4]]}, "tokens in token_ids_logprob must be at most 3"),
        ({"image_data": "http://169.254.169.254/"}, "image_data is not open"),
        ({"http_worker_ipc": "ipc://x"}, "http_worker_ipc is not open"),
    ],
)
def test_an_engines_own_route_that_is_opened_has_the_same_limits(values, words):
    assert says(values).startswith(words)


def test_answers_of_an_engines_own_route_are_counted():
    assert check({"text": ["a", "b"], "sampling_params": {"n": 2}}, LIMITS) == 4
    assert (
        check({"input_ids": [[1], [2], [3]], "sampling_params": [{"n": 1}, {"n": 2}]}, LIMITS) == 6
    )


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("allow_templates", {"chat_template_kwargs": {"enable_thinking": False}}),
        ("allow_media", {"messages": [{"content": [NESTED]}]}),
        ("allow_prompt_embeds", {"prompt_embeds": "AAAA"}),
    ],
)
def test_an_operator_can_open_what_is_shut(name, values):
    says(values)
    check(values, LIMITS.model_copy(update={name: True}))


@pytest.mark.parametrize(
    ("values", "answers"),
    [
        ({}, 1), ({"prompt": "a"}, 1), ({"prompt": [1, 2, 3]}, 1), ({"prompt": ["a", "b"]}, 2),
        ({"prompt": [[1], [2]], "n": 2}, 4), ({"n": 2}, 2), ({"n": 0}, 1), ({"prompt": []}, 1),
        ({"n": 1, "best_of": 2, "prompt": ["a", "b", "c"]}, 6), ({"messages": [{}, {}]}, 1),
    ],
)  # fmt: skip
def test_answers_are_prompts_times_choices(values, answers):
    assert check(values, LIMITS) == answers
    assert num_prompts({"input_ids": [[1], [2], [3]]}) == 3


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b'"a"', b"1", b"null", b"{", b"{}x", b"\xff{}", b"[" * 100_000,
        b'{"a":' * 100_000, b'{"n":' + b"9" * 5000 + b"}",
        '{"n": 20}'.encode("utf-16"), '{"n": 20}'.encode("utf-32"), b"\xef\xbb\xbf{}",
    ],
)  # fmt: skip
def test_a_body_that_is_no_object_is_refused_before_an_engine_guesses(body):
    with pytest.raises(RequestError, match="must be a JSON object in UTF-8"):
        parse(body)


@pytest.mark.parametrize(
    "body",
    [
        # What vLLM 0.32 answered 500 to: msgpack has no such number, UTF-8 no half of a character.
        b'{"top_k": 1000000000000000000000000000000}',
        b'{"stream_interval": 9223372036854775808}',
        b'{"seed": -9223372036854775809}',
        b'{"vllm_xargs": {"a": [18446744073709551616]}}',
        b'{"stop": ["\\ud800"]}',
        b'{"bad_words": ["a\\uDFFF"]}',
        b'{"stop": ["\\ude00\\ud83d"]}',
        b'{"vllm_xargs": {"dpace_workload": "\\ud800"}}',
        b'{"vllm_xargs": {"\\ud800": "a"}}',
        b'{"\\udbff": 1}',
    ],
)
def test_what_an_engine_cannot_send_to_its_own_processes_is_refused(body):
    with pytest.raises(RequestError, match=r"64 bits|surrogates") as caught:
        parse(body)
    assert (caught.value.status, caught.value.reason) == (400, "request")


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": 9223372036854775807}', 2**63 - 1),
        (b'{"a": -9223372036854775808}', -(2**63)),
        (b'{"a": "10000000000000000000000"}', "10000000000000000000000"),
        (b'{"a": 10000000000000000000000.5}', 1e22),
        (b'{"a": "\\ud83d\\ude00"}', "😀"),
        (b'{"a": "\\\\ud800"}', "\\ud800"),
        ('{"a": "\U0001f600"}'.encode(), "😀"),
    ],
)
def test_what_only_looks_like_it_is_let_through(body, value):
    assert parse(body) == {"a": value}


def test_text_that_is_nested_deeply_is_counted_without_calls():
    depth = 900
    body = b'{"messages": ' + b"[" * depth + b'"' + b"x" * 101 + b'"' + b"]" * depth + b"}"
    assert says(parse(body)).startswith("characters in messages")


async def test_a_refused_request_is_told_why_and_never_reaches_the_engine(gated):
    server = gated(limits=LIMITS)
    response = await server.complete(n=3)
    assert message(response) == "n must be at most 2, got 3. Ask for less."
    assert (response.status_code, server.reached, server.refused) == (400, [], ["request"])


async def test_a_request_that_is_let_through_is_given_on_byte_for_byte(gated):
    server = gated(limits=LIMITS)
    body = b'{ "prompt":"\\u00e9\xc3\xa9", "n" : 1,"x":NaN, "x":2 }'
    assert (await server.post(body)).status_code == 200
    assert server.reached == [("POST", "/v1/completions", body)]


async def test_routes_that_were_opened_have_the_same_limits(gated):
    server = gated(limits=LIMITS, open_routes=("POST /v1/responses",))
    content = json.dumps({"max_output_tokens": 51}).encode()
    headers = {"Content-Type": "application/json"}
    response = await server.ask(
        "POST", "/v1/responses", "an-api-key", content=content, headers=headers
    )
    assert message(response).startswith("max_output_tokens must be at most 50")


async def test_other_methods_with_a_body_have_them_too(gated):
    server = gated(limits=LIMITS, open_routes=("PUT /v1/things",))
    for content, status in {b'{"n": 1}': 200, b'{"n": 3}': 400, b"x": 400}.items():
        headers = {"Content-Type": "application/json"}
        response = await server.ask(
            "PUT", "/v1/things", "an-api-key", content=content, headers=headers
        )
        assert response.status_code == status


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
async def test_what_a_web_page_can_send_unasked_is_refused(gated, content_type):
    server = gated()
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = await server.ask(
        "POST", "/v1/completions", "an-api-key", content=b"{}", headers=headers
    )
    assert (response.status_code, server.reached, server.refused) == (415, [], ["body"])


async def test_ids_in_headers_are_checked_too(gated):
    server = gated()
    for name in ("X-Request-Id", "X-Session-Id"):
        response = await server.post(b"{}", **{name: "a b"})
        assert message(response).startswith("a request's id must be")
        assert (await server.post(b"{}", **{name: "a-1"})).status_code == 200


async def test_a_client_cannot_choose_its_engine_or_go_first(gated):
    server = gated()
    await server.post(
        b"{}",
        **{
            "X-Data-Parallel-Rank": "1",
            "X-VLLM-Priority": "-9",
            "X-Override-Bootstrap-Host": "10.0.0.1",
            "x-override-rid": "0",
            "X-SMG-Routing-Key": "me",
            "X-Other": "1",
        },
    )
    kept = {name for name in server.headers[0] if name.startswith("x-")}
    assert kept == {"x-other"}
