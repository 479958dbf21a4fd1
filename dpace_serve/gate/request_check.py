"""What a request may ask for, and how much of it."""

import json
import re
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

from dpace_serve.gate.refusal import RequestError
from dpace_serve.gate.request_fields import FIELD_KINDS, FieldKind
from dpace_serve.gate.request_shapes import ShapeError, require_shapes
from dpace_serve.gate_config import LimitsConfig

ID_PATTERN = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
"""What a client may call its request: it is written to logs and records."""

TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "thinking", "reasoning")
"""Types of the parts of a message that are text."""

_LONGEST_SHOWN = 10**15
_HALF_RANGE = 2**63
_SURROGATES = frozenset(map(chr, range(0xD800, 0xE000)))
_UNUSUAL = re.compile(r"[0-9]{19}|\\u[dD][89a-fA-F]")
"""Only a body with this can have numbers beyond 64 bits or lone surrogates; most have none."""


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        RequestError: If it is none.
    """
    try:
        # Not from the bytes: that would also try UTF-16 and UTF-32.
        text = body.decode("utf-8")
        values = json.loads(text)
        if _UNUSUAL.search(text):
            _require_sendable(values)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise RequestError(
            "body",
            HTTPStatus.BAD_REQUEST,
            "the body must be a JSON object in UTF-8, not nested too deeply. Correct it.",
        )
    return values


def _require_sendable(values: object) -> None:
    """Check that an engine can send all of it to its own processes.

    vLLM answers 500 to a whole number beyond 64 bits and to half a surrogate pair, which neither
    msgpack nor UTF-8 can write.

    Raises:
        RequestError: If it cannot.
    """
    open_values = [values]
    while open_values:  # not by calls: it may be nested as deeply as the parser allows
        item = open_values.pop()
        if isinstance(item, dict):
            open_values.extend(item)
            open_values.extend(item.values())
        elif isinstance(item, list):
            open_values.extend(item)
        elif isinstance(item, str):
            if any(character in _SURROGATES for character in item):
                raise _refused("text must be Unicode without lone surrogates. Correct it.")
        elif isinstance(item, int) and not -_HALF_RANGE <= item < _HALF_RANGE:
            raise _refused("whole numbers must lie within 64 bits, with a sign. Correct it.")


def check_id(text: object) -> None:
    """Check a name that a client gives its request.

    Raises:
        RequestError: If it is none that can be written to a log.
    """
    if not isinstance(text, str) or not ID_PATTERN.fullmatch(text):
        raise _refused(
            "a request's id must be 1 to 128 characters of A-Z, a-z, 0-9 and ._:/+=-. Change it, "
            "or leave it out."
        )


def check(values: dict[str, Any], limits: LimitsConfig) -> int:
    """Check all fields of a request.

    Args:
        values: Its JSON object.
        limits: Most that it may ask for.

    Returns:
        How many answers it asks for: its prompts times its choices.

    Raises:
        RequestError: If it asks for what it may not, or too much.
    """
    try:
        require_shapes(values)
    except ShapeError as error:
        raise _refused(str(error)) from None
    schema_characters, num_choices = 0, 1
    for name, value in _fields(values):
        kind = FIELD_KINDS.get(name)
        if kind is None or value is None:
            continue
        if is_closed(kind, limits):
            raise _refused(f"{name} is not open on this server. Leave it out.")
        if kind == "schema":
            schema_characters += len(json.dumps(value))
        elif kind in _CHECKS:
            _CHECKS[kind](name, value, limits)
        if kind == "choices":
            num_choices = max(num_choices, _whole(name, value))
        elif kind == "messages":
            schema_characters += sum(len(json.dumps(tools)) for tools in _tools(value))
    _at_most(schema_characters, limits.max_schema_kilobytes * 1000, "schemas, grammars and tools")
    return num_prompts(values) * num_choices


def is_closed(kind: FieldKind, limits: LimitsConfig) -> bool:
    """Whether fields of a kind are refused on this server."""
    return kind in _CLOSED and not _CLOSED[kind](limits)


def num_prompts(values: dict[str, Any]) -> int:
    """How many prompts a request has: a list of token ids is one, a list of lists is many."""
    numbers = [1]
    for name in ("prompt", "prompt_embeds", "input_ids", "text"):
        value = values.get(name)
        if isinstance(value, list) and not all(isinstance(item, int) for item in value):
            numbers.append(len(value))
    return max(numbers)


def _fields(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """All fields by name, with those that an engine's own routes have one level further down."""
    for name, value in values.items():
        if name != "sampling_params":
            yield name, value
            continue
        for parameters in value if isinstance(value, list) else [value]:
            if isinstance(parameters, dict):
                yield from parameters.items()


def _check_prompt(name: str, value: object, limits: LimitsConfig) -> None:
    _at_most(num_prompts({"prompt": value}), limits.max_prompts, f"prompts in {name}")
    _at_most(_num_characters(value), limits.max_prompt_characters, f"characters in {name}")


def _check_messages(name: str, value: object, limits: LimitsConfig) -> None:
    _at_most(_num_characters(value), limits.max_prompt_characters, f"characters in {name}")
    if limits.allow_media:
        return
    for part in _parts(value):
        if isinstance(part, dict) and part.get("type") not in TEXT_PARTS:
            raise _refused("messages must be text on this server. Leave media out.")


def _check_choices(name: str, value: object, limits: LimitsConfig) -> None:
    _at_most(_whole(name, value), limits.max_choices, name)


def _check_length(name: str, value: object, limits: LimitsConfig) -> None:
    _at_most(_whole(name, value), limits.max_output_tokens, name)


def _check_logprobs(name: str, value: object, limits: LimitsConfig) -> None:
    if isinstance(value, bool):
        return
    number = _whole(name, value)
    if number < 0:  # an engine takes -1 for the whole vocabulary
        raise _refused(f"{name} must be from 0 to {limits.max_logprobs}. Ask for fewer.")
    _at_most(number, limits.max_logprobs, name)


def _check_stops(name: str, value: object, limits: LimitsConfig) -> None:
    stops = value if isinstance(value, list) else [value]
    _at_most(len(stops), limits.max_stops, f"entries of {name}")
    longest = max((len(stop) for stop in stops if isinstance(stop, str)), default=0)
    _at_most(longest, limits.max_stop_characters, f"characters of an entry of {name}")


def _check_tokens(name: str, value: object, limits: LimitsConfig) -> None:
    lists = value if isinstance(value, list) else [value]  # or one list for each prompt
    number = sum(len(item) if isinstance(item, (dict, list)) else 1 for item in lists)
    _at_most(number, limits.max_listed_tokens, f"tokens in {name}")


def _check_id(_name: str, value: object, _limits: LimitsConfig) -> None:
    check_id(value)


_CHECKS: dict[FieldKind, Callable[[str, object, LimitsConfig], None]] = {
    "prompt": _check_prompt,
    "messages": _check_messages,
    "choices": _check_choices,
    "length": _check_length,
    "logprobs": _check_logprobs,
    "stops": _check_stops,
    "tokens": _check_tokens,
    "id": _check_id,
}

_CLOSED: dict[FieldKind, Callable[[LimitsConfig], bool]] = {
    "template": lambda limits: limits.allow_templates,
    "media": lambda limits: limits.allow_media,
    "embeds": lambda limits: limits.allow_prompt_embeds,
    "internal": lambda _: False,
}


def _whole(name: str, value: object) -> int:
    # An engine would read "100000" and 1e5 as numbers too.
    if isinstance(value, bool) or not isinstance(value, int):
        raise _refused(f"{name} must be a whole number. Write it without quotes or a point.")
    return value


def _parts(messages: object) -> Iterator[object]:
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, dict):  # an engine may take one part for a list of one
            yield content
        elif isinstance(content, list):
            yield from content


def _tools(messages: object) -> Iterator[object]:
    """Tools that a message brings itself, as SGLang lets it."""
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict) and message.get("tools") is not None:
            yield message["tools"]


def _num_characters(value: object) -> int:
    """Characters of all text in a value, where any number counts as one."""
    number, open_values = 0, [value]
    while open_values:  # not by calls: it may be nested as deeply as the parser allows
        item = open_values.pop()
        if isinstance(item, str):
            number += len(item)
        elif isinstance(item, list):
            open_values.extend(item)
        elif isinstance(item, dict):
            open_values.extend(item.values())
        else:
            number += 1
    return number


def _at_most(number: int, limit: int, what: str) -> None:
    if number > limit:
        given = str(number) if number < _LONGEST_SHOWN else "far more"
        raise _refused(f"{what} must be at most {limit}, got {given}. Ask for less.")


def _refused(message: str) -> RequestError:
    return RequestError("request", HTTPStatus.BAD_REQUEST, message)
