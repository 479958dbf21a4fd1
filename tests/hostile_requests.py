"""Values that have broken servers, in requests that are otherwise as an engine likes them."""

import math
from collections.abc import Mapping
from random import Random
from typing import Any

BEYOND = 10**30
HALF = "\ud800"
SELF = {"$ref": "#"}

PLAIN: Mapping[str, Any] = {
    "/v1/completions": {"prompt": "The", "max_tokens": 4},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 4},
}

VALUES: Mapping[str, list[Any]] = {
    "temperature": [0, 1, math.nan, math.inf, 1e308, 5e-324, -1, True, "1", BEYOND],
    "top_p": [math.nan, 5e-324, 1, 0, "0.5"],
    "top_k": [BEYOND, 2**31, 2**63, -1, -2, 1],
    "min_p": [0, 0.1, math.nan],
    "presence_penalty": [2, -2, math.nan],
    "frequency_penalty": [2, -2, math.nan],
    "repetition_penalty": [0, 5e-324, 1e308, math.nan, math.inf, 0.001, -1, BEYOND],
    "seed": [2**63 - 1, -(2**63), 2**63, -1, BEYOND],
    "logit_bias": [{"0": 1}, {"0": math.nan}, {"-1": 1}, {"99999999": 1}, {str(BEYOND): 1}, []],
    "stop": ["", [""], [HALF], "\x00", ["a", "b", "c", "d"], [1], HALF],
    "stop_token_ids": [[-1], [BEYOND], [2**31], [2**63 - 1], [99999999], [True]],
    "allowed_token_ids": [[], [-1], [BEYOND], [99999999], [0], [2**31]],
    "logprob_token_ids": [[], [-1], [BEYOND], [99999999], [0]],
    "bad_words": [[""], [HALF], ["a"], [" "], ["\x00"]],
    "min_tokens": [-1, 4, 5, 8],
    "max_tokens": [0, -1, 1, 8, BEYOND, "8", 8.0],
    "n": [0, -1, 1, 2, 3],
    "logprobs": [0, 1, 20, True],
    "top_logprobs": [0, 1, 20],
    "prompt_logprobs": [0, 1, 20],
    "truncate_prompt_tokens": [-1, 0, 1, -2, BEYOND, 2**63 - 1],
    "stream": [True],
    "stream_options": [{}, {"include_usage": True}, {"continuous_usage_stats": True}, []],
    "stream_interval": [1, 0, BEYOND, 2**63],
    "echo": [True],
    "use_beam_search": [True],
    "return_token_ids": [True],
    "return_tokens_as_token_ids": [True],
    "return_token_offsets": [True],
    "return_prompt_text": [True],
    "cache_salt": ["", "a", HALF],
    "thinking_token_budget": [0, 1, -1, BEYOND],
    "repetition_detection": [
        {"max_pattern_size": 0, "min_count": 0},
        {"max_pattern_size": 10**9, "min_count": 2},
        {"max_pattern_size": BEYOND, "min_count": BEYOND},
        {"max_pattern_size": -1, "min_count": -1, "min_pattern_size": -5},
    ],
    "response_format": [
        {"type": "json_object"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": SELF}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"anyOf": [SELF]}}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": []}}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"pattern": "("}}},
        "json_object",
        {"type": "structural_tag", "format": {}},
        {"type": "structural_tag", "structures": [{"begin": "", "end": ""}], "triggers": [""]},
    ],
    "structured_outputs": [
        {},
        {"regex": "("},
        {"regex": ""},
        {"regex": "(a{1,1000}){1,1000}"},
        {"choice": []},
        {"choice": [HALF]},
        {"grammar": "root ::= root"},
        {"grammar": "root ::= a"},
        {"grammar": "\x00"},
        {"json": "{"},
        {"json": SELF},
        {"json": {"$ref": "http://127.0.0.1:1/x"}},
        {"structural_tag": "{}"},
        1.5,
        "a",
        [],
        {"regex": "a", "choice": ["a"]},
    ],
    "tools": [
        [],
        [{}],
        [{"function": {}}],
        [1],
        {},
        [{"type": "function", "function": {"name": HALF, "parameters": {}}}],
    ],
    "tool_choice": ["auto", "required", {"type": "function", "function": {"name": "a"}}],
    "vllm_xargs": [
        {"dpace_workload": "json"},
        {"dpace_workload": HALF},
        {"dpace_workload": [1]},
        {"dpace_drafter": 1},
        {"a": BEYOND},
        {"a": math.nan},
        {HALF: HALF},
    ],
    "user": [HALF],
    "model": ["x", "", None, HALF, 1],
    "prompt": [
        "",
        HALF,
        [],
        [[]],
        [""],
        None,
        [0],
        [-1],
        [99999999],
        [BEYOND],
        [2**31],
        {},
        [None],
    ],
    "messages": [
        [],
        [{}],
        [{"role": "user"}],
        [{"role": "user", "content": HALF}],
        [{"role": HALF, "content": "a"}],
        [{"role": "assistant", "tool_calls": [{}]}],
        [{"role": "assistant", "tool_calls": [1]}],
        [{"role": "tool", "content": "a"}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": [None]}],
        [{"role": 1, "content": "a"}],
    ],
    "request_id": ["a", "a\nb"],
    HALF: [1],
    "": [HALF, BEYOND],
}
"""By field; half a surrogate pair and numbers beyond 64 bits can be written in JSON."""


def hostile(path: str, model: str, draw: Random) -> dict[str, Any]:
    """A request with one to three of these values.

    Args:
        path: The route.
        model: Its model.
        draw: Chooses.
    """
    fields = draw.sample(sorted(VALUES), k=draw.randint(1, 3))
    return {"model": model, **PLAIN[path], **{name: draw.choice(VALUES[name]) for name in fields}}
