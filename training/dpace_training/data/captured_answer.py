"""Answers captured from a server of the target: the very tokens that it read and wrote."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from dpace_training.data.traffic import UnusableRecordError, require_finished

PROMPT_KEY = "prompt_token_ids"
ANSWER_KEY = "output_token_ids"


@dataclass(frozen=True, slots=True)
class CapturedAnswer:
    """A prompt and the target's answer to it in the tokens of the server; no text is known.

    `answer_ids` hold the end token where the answer has one. `model` is the name under which the
    server had the target; None where the record does not say it.
    """

    document_id: int
    workload: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...] | None
    model: str | None


def capture_record(record: dict[str, Any], place: str) -> dict[str, Any]:  # noqa: ARG001 (as all formats)
    """A line of a capture file in our own form.

    It is `{"prompt_token_ids": [...], "output_token_ids": [...], "finish_reason": "stop", "model":
    ..., "workload": ...}`, as `dpace serve` writes it; nothing else of it is read.

    Raises:
        UnusableRecordError: If the answer is unfinished or empty.
    """
    require_finished(record.get("finish_reason"))
    if not record.get(ANSWER_KEY):
        raise UnusableRecordError("empty answer")
    kept = (PROMPT_KEY, ANSWER_KEY, "workload", "model")
    return {key: record[key] for key in kept if key in record}


def parse_captured(record: dict[str, Any], *, document_id: int, untagged: str) -> CapturedAnswer:
    """Turn a record of our own form into a document.

    Args:
        record: Has at least the tokens of the prompt.
        document_id: Number of the document in its file, from 0.
        untagged: Workload of a record that names none.

    Raises:
        pydantic.ValidationError: If the record has another form.
    """
    read = _Record.model_validate({"workload": untagged, **record})
    return CapturedAnswer(
        document_id, read.workload, read.prompt_token_ids, read.output_token_ids, read.model
    )


def to_captured_record(document: CapturedAnswer) -> dict[str, Any]:
    """The JSON object that `parse_captured` reads back as the same document."""
    record: dict[str, Any] = {"workload": document.workload, PROMPT_KEY: list(document.prompt_ids)}
    if document.answer_ids is not None:
        record[ANSWER_KEY] = list(document.answer_ids)
    if document.model is not None:
        record["model"] = document.model
    return record


_TokenIds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    prompt_token_ids: _TokenIds
    output_token_ids: _TokenIds | None = None
    workload: str
    model: str | None = None
