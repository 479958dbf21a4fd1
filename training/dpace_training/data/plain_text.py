"""Plain texts: files of text as records, and long texts cut into documents."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpace_serve.errors import ConfigError

TEXT_SUFFIX = ".txt"


def text_files(folder: Path, *, every_file: bool) -> list[Path]:
    """Text files below a folder, in the order of their paths; hidden ones are left out.

    Args:
        folder: Where to look, subfolders included.
        every_file: Take all files, whatever their names end with; else `.txt` files.
    """
    found = [
        path
        for path in folder.rglob("*" if every_file else f"*{TEXT_SUFFIX}")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return sorted(found)


def text_records(paths: list[Path]) -> Iterator[tuple[dict[str, Any], str]]:
    """One record `{"text": ...}` a file, with its path as its place.

    Raises:
        ConfigError: If a file cannot be read or is not UTF-8.
    """
    for path in paths:
        try:
            # Bytes: reading as text would rewrite the ends of lines.
            yield {"text": path.read_bytes().decode("utf-8-sig")}, str(path)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise ConfigError(
                f"{path}: cannot be read as text ({reason}). Correct or remove the file."
            ) from None


def text_record(record: dict[str, Any], place: str) -> dict[str, Any]:
    """A record `{"text": ...}` in our own form: a completion of nothing.

    Raises:
        ConfigError: If the text is missing or empty.
    """
    text = record.get("text")
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(
            f"{place}: text must be a text that is not empty. Correct or remove the record."
        )
    kept = {key: record[key] for key in ("workload",) if key in record}
    return {"prompt": "", "completion": text, **kept}


def cut_text(
    record: dict[str, Any], *, text_lines: int | None, prompt_lines: int
) -> list[dict[str, Any]]:
    """Cut a text into records that together hold all of it.

    Args:
        record: What `text_record` returned.
        text_lines: Lines of a piece; None keeps the text whole.
        prompt_lines: First lines of each piece that become its prompt.
    """
    lines = [line + "\n" for line in record["completion"].split("\n")]
    lines[-1] = lines[-1][:-1]
    if not lines[-1]:
        lines.pop()
    size = text_lines or len(lines)
    pieces = [lines[start : start + size] for start in range(0, len(lines), size)]
    return [
        record
        | {
            "prompt": "".join(piece[:prompt_lines]),
            "completion": "".join(piece[prompt_lines:]),
        }
        for piece in pieces
    ]
