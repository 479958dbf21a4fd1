"""What derived files were made from, written beside them, so that stale ones are never used."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dpace_serve.durable_file import write_whole
from dpace_serve.errors import ConfigError
from dpace_serve.outside_text import MAX_TABLE_BYTES, parse_json, read_text


def claim_key(path: Path, key: dict[str, Any], *, what: str) -> None:
    """Write down what a derived file was made from, or check that it is still the same.

    Args:
        path: JSON file beside the derived files.
        key: Everything the derived files depend on.
        what: Name of the derived files in the error message.

    Raises:
        ConfigError: If the file says something else, or cannot be read or written.
    """
    text = json.dumps(key, indent=2, sort_keys=True) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone_in(path.parent):
            if not path.exists():
                write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))
                return
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}). Choose another folder."
        ) from None
    known = _known_key(path, what)
    changed = sorted(name for name in key | known if key.get(name) != known.get(name))
    if changed:
        raise ConfigError(
            f"{path.parent}: {what} there were made with another {', '.join(changed)}. "
            "Choose another folder or delete that one."
        )


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process makes derived files in this folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # Closing alone is not enough: a child that was forked meanwhile would keep the lock.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _known_key(path: Path, what: str) -> dict[str, Any]:
    try:
        known = parse_json(read_text(path, max_bytes=MAX_TABLE_BYTES))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Check the path.") from None
    except ValueError:  # neither JSON nor UTF-8
        known = None
    if not isinstance(known, dict):
        raise ConfigError(
            f"{path}: damaged, so nobody knows what the {what} beside it were made from. "
            "Delete it together with them, or choose another folder."
        )
    return known
