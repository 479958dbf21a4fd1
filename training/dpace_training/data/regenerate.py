"""Answers written by the target itself: a drafter must learn what its target says, nothing else."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dpace_training.config import RegenerateConfig
from dpace_training.data.answers import answer_batch, batches_by_length
from dpace_training.data.conversations import Document, parse_record, read_documents, to_record
from dpace_training.data.provenance import claim_key
from dpace_training.data.target_model import Target
from dpace_training.progress import progress_bar


def regenerate_file(
    target: Target, documents: Sequence[Document], destination: Path, config: RegenerateConfig
) -> list[Document]:
    """Write the target's answers to all prompts, going on where an earlier run was cut.

    Finished batches are appended to `destination` + `.partial`; the complete file replaces it.

    Args:
        target: Model that answers.
        documents: Prompts; answers in them only say where the assistant speaks.
        destination: JSONL file of answered documents, in the order given.
        config: Temperature, length and batch size.

    Raises:
        ConfigError: If `destination` was made from other prompts, another target or otherwise.
    """
    _claim(destination, target, documents, config)
    if destination.exists():
        return read_documents(destination)
    partial = destination.with_suffix(".partial")
    answered = {document.document_id: document for document in _recover(partial)}
    with (
        partial.open("a", encoding="utf-8") as file,
        progress_bar(f"answers of the target, {destination.stem}", len(documents)) as advance,
    ):
        advance(len(answered), "")
        for index, batch in enumerate(batches_by_length(documents, config.batch_size)):
            missing = {document.document_id for document in batch} - answered.keys()
            if not missing:
                continue
            # The whole batch again, so that sampled answers do not depend on where a run was cut.
            for document in answer_batch(target, batch, config, seed=config.seed + index):
                if document.document_id in missing:
                    answered[document.document_id] = document
                    file.write(_line(target, document))
            file.flush()
            os.fsync(file.fileno())
            advance(len(missing), "")
    complete = [answered[document.document_id] for document in documents]
    temporary = destination.with_suffix(".complete")
    temporary.write_text("".join(_line(target, document) for document in complete), "utf-8")
    temporary.replace(destination)
    partial.unlink()
    return complete


def _claim(
    destination: Path, target: Target, documents: Sequence[Document], config: RegenerateConfig
) -> None:
    prompts = "".join(json.dumps(to_record(document)) for document in documents)
    key: dict[str, Any] = {
        "target": target.revision,
        "target_dtype": str(target.model.dtype),
        "prompts": hashlib.sha256(prompts.encode()).hexdigest(),
        "settings": config.model_dump(mode="json"),
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
