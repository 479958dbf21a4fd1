"""The prompts that tuning measures with: chats of any length, and texts to continue."""

import logging
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dpace_serve.demo.prompts import LibraryLines, read_lines
from dpace_serve.errors import ConfigError
from dpace_serve.outside_text import json_problem, parse_json
from dpace_serve.vllm_engine.tuning_calls import ChatMessage, TuningPrompt

logger = logging.getLogger(__name__)


def read_prompts(path: Path) -> list[TuningPrompt]:
    """Read the prompts of a JSONL file; empty lines are skipped.

    A line has one of these keys, the first one counts:

    - `messages`: a chat in the words of the OpenAI API. Answers at its end are left away, so that
      the target writes its own: what is left must end with a message of the user;
    - `prompt`: a text to continue;
    - `library_file`, `first_line`, `num_lines`: as in the demo's prompts.

    Other keys are allowed and not read, `workload` among them: tuning pools all prompts.

    Raises:
        ConfigError: If the file cannot be read, has no prompt, or a line is none of these.
    """
    prompts = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        asked = _asked(line, place)
        if asked is None:
            logger.warning("%s: left out, this Python has no such lines", place)
            continue
        prompts.append(TuningPrompt(place, asked))
    if not prompts:
        raise ConfigError(f"{path}: holds no usable prompt. Write one JSON object per line.")
    return prompts


class _Line(BaseModel):
    # Data sets carry keys of their own (ids, sources, models), so these are not refused.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _Message(_Line):
    role: Literal["system", "user", "assistant"]
    content: str


class _Chat(_Line):
    messages: list[_Message]

    def asked(self) -> tuple[ChatMessage, ...]:
        """What comes before the answer."""
        messages = [ChatMessage(message.role, message.content) for message in self.messages]
        while messages and messages[-1].role == "assistant":
            messages.pop()
        if not messages or messages[-1].role != "user":
            raise ValueError("messages must end with one of the user, answers after it left away")
        return tuple(messages)


class _Text(_Line):
    prompt: Annotated[str, Field(min_length=1)]

    def asked(self) -> str:
        """What is continued."""
        return self.prompt


class _LibraryText(LibraryLines):
    model_config = ConfigDict(extra="ignore")

    def asked(self) -> str:
        """What is continued; empty where this interpreter has no such lines."""
        return self.text()


_LINE_KINDS: dict[str, type[_Chat | _Text | _LibraryText]] = {
    "messages": _Chat,
    "prompt": _Text,
    "library_file": _LibraryText,
}


def _asked(line: str, place: str) -> str | tuple[ChatMessage, ...] | None:
    try:
        values = parse_json(line)
    except ValueError as error:
        raise ConfigError(
            f"{place}: not valid JSON ({json_problem(error)}). Correct the line."
        ) from None
    kind = next((key for key in _LINE_KINDS if isinstance(values, dict) and key in values), None)
    if kind is None:
        raise ConfigError(
            f"{place}: must be an object with messages (a chat) or prompt (a text to continue). "
            "Correct the line."
        )
    try:
        return _LINE_KINDS[kind].model_validate(values).asked() or None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{place}: {key}: {first['msg']}. Correct the line.") from None
    except ValueError as error:
        raise ConfigError(f"{place}: {error}. Correct the line.") from None
