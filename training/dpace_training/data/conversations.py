"""Training documents as people write them: chat conversations and plain completions, in JSONL."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dpace_serve.errors import ConfigError

UNTAGGED_WORKLOAD = "other"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat, in the words of the OpenAI API."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat; `answer_ids` are the tokens of its last answer where the target wrote it."""

    document_id: int
    workload: str
    messages: tuple[Message, ...]
    answer_ids: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt without chat template and how it goes on."""

    document_id: int
    workload: str
    prompt: str
    completion: str
    answer_ids: tuple[int, ...] | None


Document = Conversation | Completion


def read_documents(path: Path) -> list[Document]:
    """Read a JSONL file of conversations and completions; empty lines are skipped.

    A line is `{"messages": [{"role": ..., "content": ...}, ...]}` or `{"prompt": ..., "completion":
    ...}`, with an optional `workload`. Other keys are allowed and not read. A document's id is its
    number in the file, from 0.

    Raises:
        ConfigError: If the file cannot be read, is empty or has a bad line.
    """
    documents = [
        parse_record(record, document_id=index, place=place)
        for index, (record, place) in enumerate(_records(path))
    ]
    if not documents:
        raise ConfigError(f"{path}: holds no document. Write one JSON object per line.")
    return documents


def spread(documents: Sequence[Document], most: int | None) -> list[Document]:
    """At most that many documents, evenly spread, so that sorted files lose no workload."""
    if most is None or most >= len(documents):
        return list(documents)
    return [documents[index * len(documents) // most] for index in range(most)]


def parse_record(record: dict[str, Any], *, document_id: int, place: str) -> Document:
    """Turn one JSON object into a document.

    Args:
        record: The object.
        document_id: Number of the document in its file, from 0.
        place: File and line, for the error message.

    Raises:
        ConfigError: If the object is neither a conversation nor a completion.
    """
    if not {"messages", "prompt"} & record.keys():
        raise ConfigError(
            f"{place}: must have messages (a chat) or prompt (a text to continue), has "
            f"{', '.join(record) or 'nothing'}. Correct the line."
        )
    try:
        if "messages" in record:
            chat = _ConversationRecord.model_validate(record)
            messages = tuple(Message(message.role, message.content) for message in chat.messages)
            _check_order(messages, place)
            return Conversation(document_id, chat.workload, messages, chat.answer_ids)
        text = _CompletionRecord.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{place}: {key}: {first['msg']}. Correct the line.") from None
    return Completion(document_id, text.workload, text.prompt, text.completion, text.answer_ids)


def to_record(document: Document) -> dict[str, Any]:
    """The JSON object that `parse_record` reads back as the same document."""
    record: dict[str, Any] = {"workload": document.workload}
    if isinstance(document, Conversation):
        record["messages"] = [
            {"role": message.role, "content": message.content} for message in document.messages
        ]
    else:
        record |= {"prompt": document.prompt, "completion": document.completion}
    if document.answer_ids is not None:
        record["answer_ids"] = list(document.answer_ids)
    return record


class _Record(BaseModel):
    # Data sets carry keys of their own (ids, sources, expected answers), so these are not refused.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _MessageRecord(_Record):
    role: Literal["system", "user", "assistant", "tool"]
    content: str


class _ConversationRecord(_Record):
    messages: Annotated[list[_MessageRecord], Field(min_length=1)]
    workload: str = UNTAGGED_WORKLOAD
    answer_ids: Annotated[tuple[int, ...], Field(strict=False, min_length=1)] | None = None


class _CompletionRecord(_Record):
    prompt: Annotated[str, Field(min_length=1)]
    completion: str = ""
    workload: str = UNTAGGED_WORKLOAD
    answer_ids: Annotated[tuple[int, ...], Field(strict=False, min_length=1)] | None = None


def _records(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{path}: cannot be read ({reason}). Check the path.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{place}: not valid JSON ({error.msg}). Correct the line.") from None
        if not isinstance(record, dict):
            raise ConfigError(
                f"{place}: must be an object with messages or prompt, is a {type(record).__name__}."
            )
        yield record, place


def _check_order(messages: tuple[Message, ...], place: str) -> None:
    previous = "assistant"
    for message in messages:
        if message.role == "assistant" and previous in ("assistant", "system"):
            raise ConfigError(
                f"{place}: an assistant message must follow a user or tool message, follows "
                f"{previous if message is not messages[0] else 'nothing'}. Correct the line."
            )
        previous = message.role
    if previous == "system":
        raise ConfigError(f"{place}: the last message must not be a system message. Add a user's.")
