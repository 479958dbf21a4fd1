"""Answers written by the target itself: a drafter must learn what its target says, nothing else."""

import hashlib
import json
import os
from collections.abc import Generator, Iterator, Sequence, Set
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from dpace_training.config import RegenerateConfig
from dpace_training.data.answers import TransformersWriter
from dpace_training.data.conversations import Document, parse_record, to_record
from dpace_training.data.provenance import claim_key
from dpace_training.data.target_model import Target
from dpace_training.progress import progress_bar

AnsweredGroups = Generator[list[Document], None, None]


@runtime_checkable
class AnswerWriter(Protocol):
    """Whoever runs the target over prompts."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the answers depend on, beside target and prompts; part of their key file."""
        ...

    def write(self, documents: Sequence[Document], known: Set[int]) -> AnsweredGroups:
        """Answer documents and yield them as they are finished, in any order.

        Args:
            documents: Prompts; answers in them only say where the assistant speaks.
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

    Args:
        target: Model that answers.
        documents: Prompts; answers in them only say where the assistant speaks.
        destination: JSONL file of answered documents, in the order given.
        config: Temperature, length and batch size.
        writer: Who runs the target; this process when not given.

    Raises:
        ConfigError: If `destination` was made from other prompts, another target or otherwise.
    """
    writer = writer or TransformersWriter(target, config)
    _claim(destination, target, documents, writer.settings)
    if destination.exists():
        return list(_recover(destination))
    partial = destination.with_suffix(".partial")
    answered = {document.document_id: document for document in _recover(partial)}
    with (
        partial.open("a", encoding="utf-8") as file,
        progress_bar(f"answers of the target, {destination.stem}", len(documents)) as advance,
        closing(writer.write(documents, set(answered))) as groups,
    ):
        advance(len(answered), "")
        for group in groups:
            for document in group:
                answered[document.document_id] = document
                file.write(_line(target, document))
            file.flush()
            os.fsync(file.fileno())
            advance(len(group), "")
    complete = [answered[document.document_id] for document in documents]
    temporary = destination.with_suffix(".complete")
    temporary.write_text("".join(_line(target, document) for document in complete), "utf-8")
    temporary.replace(destination)
    partial.unlink()
    return complete


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
    for number, line in enumerate(whole.decode("utf-8").split("\n")[:-1], start=1):
        record = json.loads(line)
        yield parse_record(record, document_id=record["document_id"], place=f"{partial}:{number}")
