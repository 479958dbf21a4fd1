"""Chats in the ShareGPT form: who speaks is `from`, what is said is `value`."""

from typing import Any

from dpace_serve.errors import ConfigError

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
}


# What is said about tools is refused where the record is read, not lost here.
_KEPT_KEYS = ("workload", "tools", "functions")


def sharegpt_record(record: dict[str, Any], place: str) -> dict[str, Any]:
    """A ShareGPT record in our own form.

    The record is `{"conversations": [{"from": ..., "value": ...}, ...]}`, where `from` is a key of
    `ROLES`; a `system` text beside it is its first message.

    Raises:
        ConfigError: If the record has another form or an unknown speaker.
    """
    turns = record.get("conversations")
    if not isinstance(turns, list):
        raise ConfigError(
            f"{place}: conversations must be a list of messages, is a {type(turns).__name__}. "
            "Correct the line."
        )
    messages = [
        _message(turn, f"{place}: conversations.{index}") for index, turn in enumerate(turns)
    ]
    system = record.get("system")
    if system and not any(message["role"] == "system" for message in messages):
        messages.insert(0, {"role": "system", "content": system})
    kept: dict[str, Any] = {key: record[key] for key in _KEPT_KEYS if key in record}
    return {"messages": messages, **kept}


def _message(turn: object, place: str) -> dict[str, Any]:
    if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
        raise ConfigError(
            f"{place}: must have from and value. Messages with role and content are read with "
            "data.input.columns.messages=conversations."
        )
    role = ROLES.get(turn["from"]) if isinstance(turn["from"], str) else None
    if role is None:
        raise ConfigError(
            f"{place}.from: must be one of {', '.join(ROLES)}, got {turn['from']!r}. "
            "Correct the line."
        )
    return {"role": role, "content": turn["value"]}
