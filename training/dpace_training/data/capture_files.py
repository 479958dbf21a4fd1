"""The files that a server's capture consists of, which it may still be writing."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dpace_serve.live.capture import FILE_STEM
from dpace_serve.outside_text import parse_json
from dpace_training.data.json_records import read_text, records_in

logger = logging.getLogger(__name__)

_PATTERN = f"{FILE_STEM}-*.jsonl"


def capture_files(path: Path) -> list[Path]:
    """The capture files of a folder in their order, or the one file; empty if there are none.

    Args:
        path: Anything that may be given as a source of conversations.
    """
    if path.is_dir():
        return sorted(path.glob(_PATTERN), key=lambda file: (len(file.name), file.name))
    return [path] if path.match(_PATTERN) and path.is_file() else []


def captured_records(files: Sequence[Path]) -> Iterator[tuple[dict[str, Any], str]]:
    """The records of capture files with their places; how many last lines are torn is logged.

    A server that is killed, or writes just now, leaves a part of a line at the end of its file.

    Raises:
        ConfigError: If a file cannot be read, or is damaged elsewhere.
    """
    num_torn = 0
    for file in files:
        text = read_text(file)
        end = text.rfind("\n") + 1
        if not _is_whole(text[end:]):
            num_torn += 1
            text = text[:end]
        yield from records_in(text, file)
    if num_torn:
        logger.warning(
            "%s: the last line of %d of %d files is torn and not used",
            files[0].parent,
            num_torn,
            len(files),
        )


def _is_whole(line: str) -> bool:
    try:
        parse_json(line or "{}")
    except ValueError:
        return False
    return True
