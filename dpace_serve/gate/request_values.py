"""What the values of a request are: text and nothing else, and how many there are."""

from collections.abc import Mapping

TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "thinking", "reasoning")
"""Types of the parts of a message that are text."""
_TEXT_PART_KEYS = frozenset({
    "annotations", "cache_control", "closed", "id", "logprobs", "prompt_cache_breakpoint",
    "refusal", "reasoning", "signature", "text", "thinking", "type",
})  # fmt: skip
_LARGEST_TOKEN = 2**31 - 1


def is_text_part(part: Mapping[str, object]) -> bool:
    """Whether a part of a message is text, however an engine reads it.

    Its type does not say all: vLLM takes `{"type": "text", "uuid": U, "image_url": URL}` for an
    image, and fetches it.
    """
    return part.get("type") in TEXT_PARTS and _TEXT_PART_KEYS.issuperset(part)


def is_prompt(value: object) -> bool:
    """Whether a value is text, token ids, or a list of either.

    An engine that finds anything else in it says so for every entry: a million errors of a
    kilobyte.
    """
    if isinstance(value, str):
        return True
    if not isinstance(value, list):
        return False
    return _are_tokens(value) or all(
        isinstance(one, str) or (isinstance(one, list) and _are_tokens(one)) for one in value
    )


def num_values(value: object) -> int:
    """How many JSON values a value has below it, those in lists and objects included."""
    number, open_values = 0, [value]
    while open_values:  # not by calls: it may be nested as deeply as the parser allows
        item = open_values.pop()
        if isinstance(item, list):
            number += len(item)
            open_values.extend(item)
        elif isinstance(item, dict):
            number += len(item)
            open_values.extend(item.values())
    return number


def _are_tokens(values: list[object]) -> bool:
    return all(type(one) is int and 0 <= one <= _LARGEST_TOKEN for one in values)
