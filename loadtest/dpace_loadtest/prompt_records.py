"""Conversations of a JSONL file in the shapes that prompts are usually shared in."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dpace_loadtest.conversation import Message, Role
from dpace_serve.demo.prompts import read_lines
from dpace_serve.errors import ConfigError
from dpace_serve.outside_text import json_problem, parse_json

_SHAREGPT_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
}
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


@dataclass(frozen=True, slots=True)
class RecordedPrompt:
    """What one line of a file holds: a chat, or a text to continue.

    Attributes:
        messages: The chat, its last message the user's; empty for a text.
        text: The text; empty for a chat.
    """

    messages: tuple[Message, ...]
    text: str

    def as_chat(self) -> "RecordedPrompt":
        """The same with a text as the question of a chat."""
        return RecordedPrompt(self.messages or (Message("user", self.text),), "")


def read_records(path: Path) -> list[RecordedPrompt]:
    """All prompts of a file, in its order; empty lines are skipped.

    What follows the last message of the user, its recorded answer, is left out.

    Raises:
        ConfigError: If the file cannot be read, holds no prompt, or a line is in no known shape.
    """
    prompts = [
        _parse(line, place=f"{path}:{number}")
        for number, line in enumerate(read_lines(path), start=1)
        if line.strip()
    ]
    if not prompts:
        raise ConfigError(f"{path}: holds no prompt. Write one JSON object per line.")
    return prompts


def _parse(line: str, *, place: str) -> RecordedPrompt:
    try:
        record = parse_json(line)
    except ValueError as error:
        raise ConfigError(
            f"{place}: not valid JSON ({json_problem(error)}). Correct the line."
        ) from None
    if isinstance(record, dict):
        # The first that a record has: chats often keep their first question as `prompt` too.
        for key, read in _SHAPES.items():
            if key in record:
                return read(record[key], place)
    raise ConfigError(
        f"{place}: must be an object with one of {', '.join(_SHAPES)}. Correct the line."
    )


def _messages(value: object, place: str) -> RecordedPrompt:
    return _chat(value, place, role_key="role", text_key="content", roles=_ROLES)


def _conversations(value: object, place: str) -> RecordedPrompt:
    return _chat(value, place, role_key="from", text_key="value", roles=_SHAREGPT_ROLES)


def _chat(
    value: object, place: str, *, role_key: str, text_key: str, roles: dict[str, Role]
) -> RecordedPrompt:
    if not isinstance(value, list):
        raise ConfigError(f"{place}: a chat must be a list of messages. Correct the line.")
    messages = []
    for said in value:
        role = roles.get(str(said.get(role_key))) if isinstance(said, dict) else None
        text = said.get(text_key) if isinstance(said, dict) else None
        if role is None or not isinstance(text, str):
            raise ConfigError(
                f"{place}: each message must have {role_key} (one of {', '.join(roles)}) and a "
                f"text as {text_key}. Correct the line."
            )
        messages.append(Message(role, text))
    while messages and messages[-1].role != "user":
        messages.pop()
    if not messages:
        raise ConfigError(f"{place}: no message of the user. Remove the line.")
    return RecordedPrompt(tuple(messages), "")


def _question(value: object, place: str) -> RecordedPrompt:
    return RecordedPrompt((Message("user", _text(value, place)),), "")


def _prompt(value: object, place: str) -> RecordedPrompt:
    return RecordedPrompt((), _text(value, place))


def _text(value: object, place: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{place}: the prompt must be a text, not empty. Correct the line.")
    return value


_SHAPES: dict[str, Callable[[object, str], RecordedPrompt]] = {
    "messages": _messages,
    "conversations": _conversations,
    "question": _question,
    "prompt": _prompt,
}
