"""Answers written by the target itself: a drafter must learn what its target says, nothing else."""

import fcntl
import hashlib
import json
import os
from collections.abc import Generator, Iterator, Sequence, Set
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO, runtime_checkable

from dpace_serve.durable_file import write_whole
from dpace_serve.errors import ConfigError
from dpace_serve.outside_text import parse_json
from dpace_training.config import RegenerateConfig
from dpace_training.data.answers import TransformersWriter
from dpace_training.data.conversations import Document, parse_record, to_record
from dpace_training.data.dialogue import with_room_for_an_answer
from dpace_training.data.provenance import claim_key
from dpace_training.data.target_model import Target
from dpace_training.progress import progress_bar
from dpace_training.writing import writing

AnsweredGroups = Generator[list[Document], None, None]


@runtime_checkable
class AnswerWriter(Protocol):
    """Whoever runs the target over prompts."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the answers depend on, beside target and prompts; part of their key file."""
        ...

    @property
    def max_length(self) -> int:
        """Most tokens of a prompt and its answer together."""
        ...

    def write(self, documents: Sequence[Document], known: Set[int]) -> AnsweredGroups:
        """Answer documents and yield them as they are finished, in any order.

        A later turn that finds no room for an answer ends its conversation before it.

        Args:
            documents: Prompts that leave room for an answer; answers in them only say where the
                assistant speaks.
            known: Ids of those that are answered already.
        """
        ...


def regenerate_file(
    target: Target,
    documents: Sequence[Document],
    destination: Path,
    config: RegenerateConfig,
    *,
    writer: AnswerWriter | None = None,
) -> list[Document]:
    """Write the target's answers to all prompts, going on where an earlier run was cut.

    Finished documents are appended to `destination` + `.partial`; the complete file replaces it.
    Prompts that leave no room for an answer are counted and left out.

    Args:
        target: Model that answers.
        documents: Prompts; answers in them only say where the assistant speaks.
        destination: JSONL file of answered documents, in the order given.
        config: Temperature, length and batch size.
        writer: Who runs the target; this process when not given.

    Raises:
        ConfigError: If `destination` was made from other prompts, another target or otherwise, is
            damaged, or no prompt leaves room for an answer.
        CheckpointError: If the disk refuses; the answers that are whole are kept.
    """
    writer = writer or TransformersWriter(target, config)
    _claim(destination, target, documents, writer.settings)
    if destination.exists():
        return list(_recover(destination))
    documents = with_room_for_an_answer(target, documents, max_length=writer.max_length)
    partial = destination.with_suffix(".partial")
    with _appending(partial) as file:
        # Processes of one study come here together: the first answers, the others wait and read.
        fcntl.flock(file, fcntl.LOCK_EX)
        if not destination.exists():
            answered = _answered(target, documents, writer, partial, file)
            text = "".join(_line(target, document) for document in answered)
            with writing(destination):
                write_whole(destination, lambda path: path.write_text(text, "utf-8"))
    partial.unlink(missing_ok=True)
    return list(_recover(destination))


@contextmanager
def _appending(partial: Path) -> Iterator[TextIO]:
    with writing(partial):
        file = partial.open("a", encoding="utf-8")
    try:
        yield file
    finally:
        with writing(partial):  # closing writes what is left in the buffer
            file.close()


def _answered(
    target: Target, documents: Sequence[Document], writer: AnswerWriter, partial: Path, file: TextIO
) -> list[Document]:
    """Documents with their answers: those that `partial` holds, and new ones, written to `file`."""
    answered = {document.document_id: document for document in _recover(partial)}
    with (
        progress_bar(f"answers of the target, {partial.stem}", len(documents)) as advance,
        closing(writer.write(documents, set(answered))) as groups,
    ):
        advance(len(answered), "")
        for group in groups:
            with writing(partial):
                for document in group:
                    answered[document.document_id] = document
                    file.write(_line(target, document))
                file.flush()
                os.fsync(file.fileno())
            advance(len(group), "")
    return [answered[document.document_id] for document in documents]


def _claim(
    destination: Path, target: Target, documents: Sequence[Document], settings: dict[str, Any]
) -> None:
    prompts = "".join(json.dumps(to_record(document)) for document in documents)
    key: dict[str, Any] = {
        "target": target.revision,
        "target_dtype": str(target.model.dtype),
        "prompts": hashlib.sha256(prompts.encode()).hexdigest(),
        "settings": settings,
    }
    if target.enable_thinking is not None:  # answers from before this setting lack the key
        key["enable_thinking"] = target.enable_thinking
    claim_key(destination.with_suffix(".key.json"), key, what="answers")


def _line(target: Target, document: Document) -> str:
    record = to_record(document)
    record["document_id"] = document.document_id
    if document.answer_ids is not None:
        record["truncated"] = document.answer_ids[-1] not in target.end_ids
    return json.dumps(record, ensure_ascii=False) + "\n"


def _recover(partial: Path) -> Iterator[Document]:
    if not partial.exists():
        return
    content = partial.read_bytes()
    # A run that was cut in the middle of a line leaves no newline behind it.
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with partial.open("r+b") as file:
            file.truncate(len(whole))
    for number, line in enumerate(whole.decode("utf-8", "replace").split("\n")[:-1], start=1):
        yield _known_answer(line, place=f"{partial}:{number}")


def _known_answer(line: str, *, place: str) -> Document:
    try:
        record = parse_json(line)
        return parse_record(record, document_id=record["document_id"], place=place)
    except (ValueError, KeyError, TypeError, AttributeError):  # no JSON, or of another kind
        raise ConfigError(
            f"{place}: damaged, not an answer as it was written there. Delete the file to have all "
            "its prompts answered again."
        ) from None
