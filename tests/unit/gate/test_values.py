"""What a request is made of: bodies that are small and make an engine work for minutes."""

import pytest

from dpace_serve.gate.refusal import RequestError
from dpace_serve.gate.request_check import check
from dpace_serve.gate.request_values import num_values
from dpace_serve.gate_config import LimitsConfig

LIMITS = LimitsConfig(max_values=12, max_listed_tokens=5)


def says(values, limits=LIMITS):
    with pytest.raises(RequestError) as caught:
        check(values, limits)
    return str(caught.value)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "image_url": "http://169.254.169.254/"},
        {"type": "text", "text": "a", "uuid": "u", "image_url": {"url": "http://169.254.169.254/"}},
        {"type": "refusal", "refusal": "a", "uuid": "u", "video_url": "http://x/"},
        {"type": "thinking", "thinking": "a", "uuid": "u", "audio_url": "http://x/"},
        {"type": "text", "text": "a", "uuid": "u", "prompt_embeds": "AAAA", "data": "AAAA"},
        {"type": "text", "text": "a", "uuid": "u", "input_audio": {"data": "AAAA"}},
    ],
)
def test_media_behind_the_type_of_text_is_refused(part):
    values = {"messages": [{"role": "user", "content": [part]}]}
    assert says(values).startswith("messages must be text")
    check(values, LIMITS.model_copy(update={"allow_media": True}))


def test_text_with_what_clients_add_to_it_is_let_through():
    part = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    check({"messages": [{"role": "user", "content": [part]}]}, LIMITS)


@pytest.mark.parametrize(
    "values",
    [
        {"messages": [{}] * 13},
        {"messages": [[]] * 13},
        {"messages": [{"role": "user", "content": [{"type": "text"}] * 7}]},
        {"vllm_xargs": {str(number): {} for number in range(13)}},
        {"unknown": [[[]] * 6, [[]] * 6]},
        {str(number): 1 for number in range(13)},
    ],
)
def test_many_values_are_refused_however_small(values):
    assert says(values).startswith("values in the body must be at most 12")


def test_prompts_tokens_and_schemas_have_limits_of_their_own():
    check({"prompt": [1] * 100, "model": "m"}, LIMITS)
    check({"tools": [{"a": 1}] * 100}, LIMITS)
    assert says({"allowed_token_ids": [[]] * 6}).startswith("tokens in allowed_token_ids must be")


def test_values_are_counted_in_lists_and_objects_but_not_by_name():
    assert num_values("abc") == 0
    assert num_values({"a": [1, 2, {"b": None}], "c": {}}) == 6


@pytest.mark.parametrize(
    "prompt",
    [
        "a", ["a", "b"], [0, 5, 2**31 - 1], [[1, 2], [3]], ["a", [1]], [], [[]],
    ],
)  # fmt: skip
def test_prompts_are_text_and_tokens(prompt):
    check({"prompt": prompt}, LIMITS)


@pytest.mark.parametrize(
    "prompt",
    [
        [-1] * 1000, [2**31], [10**30], [True], [[{}] * 1000], [[0.5] * 1000], [["a"]], {"a": 1},
        7, [{}], [1.0], [[[1]]],
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["prompt", "input_ids", "text", "suffix"])
def test_anything_else_is_no_prompt(name, prompt):
    assert says({name: prompt}).startswith(f"{name} must be text, token ids, or a list of such")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"max_pattern_size": 6, "min_count": 2}, "repetition_detection.max_pattern_size must be"),
        ({"max_pattern_size": "6"}, "repetition_detection.max_pattern_size must be a whole number"),
    ],
)
def test_a_pattern_that_is_looked_for_at_each_step_is_short(value, words):
    assert says({"repetition_detection": value}).startswith(words)
    check({"repetition_detection": {"max_pattern_size": 5, "min_count": 2}}, LIMITS)
