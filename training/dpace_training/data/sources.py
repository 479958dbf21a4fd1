"""Documents from what people have: files, folders and datasets, in any of the known formats."""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dpace_serve.errors import ConfigError
from dpace_training.data.capture_files import capture_files, captured_records
from dpace_training.data.captured_origin import require_one_model
from dpace_training.data.conversations import Completion, Document, parse_record
from dpace_training.data.formats import Record, our_records
from dpace_training.data.input_config import InputConfig
from dpace_training.data.json_records import json_records
from dpace_training.data.plain_text import TEXT_SUFFIX, text_files, text_records
from dpace_training.data.traffic import UnusableRecordError

logger = logging.getLogger(__name__)

JSON_SUFFIXES = frozenset({".json", ".jsonl"})
_DATASET_PATTERNS = ("dataset_info.json", "dataset_dict.json", "**/*.parquet")


def read_source(path: Path, options: InputConfig, *, needs_prompt: bool) -> list[Document]:
    """Read all documents of a file, folder or dataset, in their order.

    A document's id is its number, from 0. Records that hold nothing to train on, and with
    `input.invalid=skip` those of a wrong form, are left out; how many and why is logged.

    Args:
        path: File, folder, or name of a dataset on the hub.
        options: Format, split, names of columns, and what happens to records of a wrong form.
        needs_prompt: Refuse texts without a prompt: the target could not answer them.

    Raises:
        ConfigError: If something cannot be read, no document is left, or captured answers are of
            several models.
    """
    documents: list[Document] = []
    unused: Counter[str] = Counter()
    num_records = 0
    first_wrong = ""
    for record, place in _records(path, options):
        num_records += 1
        try:
            found = [
                parse_record(ours, document_id=len(documents) + index, place=place)
                for index, ours in enumerate(our_records(record, place, options))
            ]
        except UnusableRecordError as error:
            unused[str(error)] += 1
        except ConfigError as error:
            if options.invalid == "refuse":
                raise
            first_wrong = first_wrong or str(error)
            unused["wrong form"] += 1
        else:
            if needs_prompt:
                _require_prompts(found, place)
            documents += found
    if unused:
        _report(path, unused, num_records, first_wrong)
    if not documents:
        raise ConfigError(f"{path}: holds no document{_reasons(unused)}. Give another file.")
    require_one_model(documents, path)
    return documents


def _records(path: Path, options: InputConfig) -> Iterator[tuple[Record, str]]:
    if options.format in (None, "capture") and (files := capture_files(path)):
        return captured_records(files)
    if _is_dataset(path, options):
        # Slow to import, and only datasets need it.
        from dpace_training.data.dataset_rows import dataset_rows  # noqa: PLC0415

        return dataset_rows(
            path, split=options.split, subset=options.subset, revision=options.revision
        )
    if not path.exists():
        raise ConfigError(
            f"{path}: cannot be read (no such file or folder). Check the path; a dataset of the "
            "hub also needs input.split."
        )
    if path.is_dir():
        return text_records(_texts_below(path, options))
    if _is_text_file(path, options):
        return text_records([path])
    return json_records(path)


def _is_dataset(path: Path, options: InputConfig) -> bool:
    if path.is_dir():
        return options.split is not None or any(
            next(path.glob(pattern), None) is not None for pattern in _DATASET_PATTERNS
        )
    return path.suffix == ".parquet" or (options.split is not None and not path.exists())


def _is_text_file(path: Path, options: InputConfig) -> bool:
    if options.format is None:
        return path.suffix == TEXT_SUFFIX
    return options.format == "text" and path.suffix not in JSON_SUFFIXES


def _texts_below(folder: Path, options: InputConfig) -> list[Path]:
    found = text_files(folder, every_file=options.format == "text")
    if not found or options.format not in (None, "text"):
        raise ConfigError(
            f"{folder}: a folder must hold {TEXT_SUFFIX} files, a dataset or captures. Give one "
            "file, or set input.format=text to read every file as text."
        )
    return found


def _require_prompts(documents: list[Document], place: str) -> None:
    if any(isinstance(document, Completion) and document.is_plain_text for document in documents):
        raise ConfigError(
            f"{place}: a plain text has no prompt for the target to answer. Set "
            "input.prompt_lines, or train on the text itself with data.regenerate.enabled=false."
        )


def _report(path: Path, unused: Counter[str], num_records: int, first_wrong: str) -> None:
    logger.warning(
        "%s: %d of %d records are not used%s. %s",
        path,
        unused.total(),
        num_records,
        _reasons(unused),
        first_wrong and f"The first of a wrong form: {first_wrong}",
    )


def _reasons(unused: Counter[str]) -> str:
    counts = ", ".join(f"{count} {reason}" for reason, count in unused.most_common())
    return f" ({counts})" if counts else ""
