"""Training documents: chat conversations and plain completions, and their own JSONL form."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from dpace_serve.errors import ConfigError
from dpace_training.data.captured_answer import (
    PROMPT_KEY,
    CapturedAnswer,
    parse_captured,
    to_captured_record,
)
from dpace_training.data.json_records import json_records

UNTAGGED_WORKLOAD = "other"

_TOOL_KEYS = ("tools", "functions")
# Tables hold something in every row: the text of an empty list, too.
_NO_TOOLS: tuple[object, ...] = (None, [], {}, "", "[]", "null")


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat, in the words of the OpenAI API.

    `reasoning_content` is what the assistant thought before its answer, for chat templates that
    write it themselves.
    """

    role: str
    content: str
    reasoning_content: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat; `answer_ids` are the tokens of its last answer where the target wrote it.

    `earlier_answer_ids` are those of the answers before it, empty where none are known.
    `answer_is_cut` says that the last answer reached a token limit: no end token follows it.
    """

    document_id: int
    workload: str
    messages: tuple[Message, ...]
    answer_ids: tuple[int, ...] | None
    answer_is_cut: bool = False
    earlier_answer_ids: tuple[tuple[int, ...] | None, ...] = ()

    @property
    def ids_by_turn(self) -> dict[int, tuple[int, ...]]:
        """Tokens of each answer that the target wrote, by the place of its message."""
        turns = [i for i, message in enumerate(self.messages) if message.role == "assistant"]
        known = (*self.earlier_answer_ids, self.answer_ids)
        # From the end: nothing may be known of the earlier ones.
        by_turn = dict(zip(reversed(turns), reversed(known), strict=False))
        return {turn: ids for turn, ids in by_turn.items() if ids is not None}


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt without chat template and how it goes on."""

    document_id: int
    workload: str
    prompt: str
    completion: str
    answer_ids: tuple[int, ...] | None

    @property
    def is_plain_text(self) -> bool:
        """True for a text to train on from its first token: it has no prompt."""
        return not self.prompt


Document = Conversation | Completion | CapturedAnswer


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
        for index, (record, place) in enumerate(json_records(path))
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
    """Turn one JSON object of our own form into a document.

    Args:
        record: The object.
        document_id: Number of the document in its file, from 0.
        place: File and line, for the error message.

    Raises:
        ConfigError: If the object is no conversation, completion or captured answer.
    """
    if not {"messages", "prompt", PROMPT_KEY} & record.keys():
        raise ConfigError(
            f"{place}: must have messages (a chat) or prompt (a text to continue), has "
            f"{', '.join(record) or 'nothing'}. Correct the line."
        )
    try:
        if "messages" in record:
            chat = _ConversationRecord.model_validate(record)
            messages = tuple(
                Message(message.role, message.content, message.reasoning_content)
                for message in chat.messages
            )
            _check_order(messages, place)
            return Conversation(
                document_id,
                chat.workload,
                messages,
                chat.answer_ids,
                chat.answer_is_cut,
                chat.earlier_answer_ids,
            )
        if "prompt" not in record:
            return parse_captured(record, document_id=document_id, untagged=UNTAGGED_WORKLOAD)
        text = _CompletionRecord.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigError(
            f"{place}: {key}: {reason}. Correct the line." if key else f"{place}: {reason}."
        ) from None
    return Completion(document_id, text.workload, text.prompt, text.completion, text.answer_ids)


def to_record(document: Document) -> dict[str, Any]:
    """The JSON object that `parse_record` reads back as the same document."""
    if isinstance(document, CapturedAnswer):
        return to_captured_record(document)
    record: dict[str, Any] = {"workload": document.workload}
    if isinstance(document, Conversation):
        record["messages"] = [message_record(message) for message in document.messages]
        if document.answer_is_cut:
            record["answer_is_cut"] = True
        if document.earlier_answer_ids:
            record["earlier_answer_ids"] = [
                None if ids is None else list(ids) for ids in document.earlier_answer_ids
            ]
    else:
        record |= {"prompt": document.prompt, "completion": document.completion}
    if document.answer_ids is not None:
        record["answer_ids"] = list(document.answer_ids)
    return record


def message_record(message: Message) -> dict[str, str]:
    """A message as the OpenAI API and chat templates take it."""
    record = {"role": message.role, "content": message.content}
    if message.reasoning_content is not None:
        record["reasoning_content"] = message.reasoning_content
    return record


_AnswerIds = Annotated[tuple[int, ...], Field(strict=False, min_length=1)]


class _Record(BaseModel):
    # Data sets carry keys of their own (ids, sources, expected answers), so these are not refused.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


def _joined_text(content: object) -> object:
    """Text parts as one text, joined by a newline as vLLM does for templates that take a text."""
    if not isinstance(content, list):
        return content
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"a part of the content must be text, is {kind}")
    return "\n".join(part["text"] for part in content)


class _MessageRecord(_Record):
    role: Literal["system", "user", "assistant", "tool"]
    content: Annotated[str, BeforeValidator(_joined_text)]
    reasoning_content: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _calls_no_tool(cls, values: object) -> object:
        # Templates differ in what they make of calls, and a regenerated answer calls others.
        if isinstance(values, dict) and (values.get("tool_calls") or values.get("function_call")):
            raise ValueError("tool calls cannot be trained on; leave the conversation out")
        return values


class _ConversationRecord(_Record):
    @model_validator(mode="before")
    @classmethod
    def _offers_no_tool(cls, values: dict[str, Any]) -> dict[str, Any]:
        # The prompt would lack them, and the answer be one to another prompt.
        offered = [key for key in _TOOL_KEYS if values.get(key) not in _NO_TOOLS]
        if offered:
            raise ValueError(
                f"{offered[0]} cannot be given to the chat template; leave the conversation out"
            )
        return values

    messages: Annotated[list[_MessageRecord], Field(min_length=1)]
    workload: str = UNTAGGED_WORKLOAD
    answer_ids: _AnswerIds | None = None
    answer_is_cut: bool = False
    earlier_answer_ids: Annotated[tuple[_AnswerIds | None, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _knows_as_many_answers_as_it_has(self) -> "_ConversationRecord":
        num_earlier = sum(message.role == "assistant" for message in self.messages) - 1
        if self.earlier_answer_ids and len(self.earlier_answer_ids) != num_earlier:
            raise ValueError(
                f"earlier_answer_ids must be one for each of {num_earlier} earlier answers, are "
                f"{len(self.earlier_answer_ids)}; leave them out"
            )
        return self


class _CompletionRecord(_Record):
    prompt: str
    completion: str = ""
    workload: str = UNTAGGED_WORKLOAD
    answer_ids: _AnswerIds | None = None

    @model_validator(mode="after")
    def _holds_text(self) -> "_CompletionRecord":
        if not self.prompt and not self.completion:
            raise ValueError("prompt and completion are both empty; leave the line out")
        return self


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
