"""Files that are whole or not there at all, also after a crash or a power cut."""

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let a file be written under a temporary name beside it; then it takes the place of `path`.

    Args:
        path: The file; its folder must exist.
        write: Writes the content to the path that it gets.

    Raises:
        OSError: If the disk refuses; what stood at `path` is untouched then.
    """
    temporary = path.with_suffix(".tmp")
    try:
        write(temporary)
        flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


def flush(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk.

    A file that is renamed before its bytes are there can be named but empty after a power cut.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
