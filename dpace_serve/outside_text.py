"""Text that others wrote, read within limits: no file can cost more than it is worth.

What is too large, too deep or no file is refused like what cannot be read or parsed, so that who
catches an OSError and a ValueError has caught everything.
"""

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

MAX_SETTINGS_BYTES = 100_000
"""Settings that people write: the largest of ours has 3 kB. YAML is parsed slowly."""
MAX_JSON_BYTES = 4_000_000
"""JSON about one thing: a model's configuration, a schedule, a record of a run."""
MAX_TABLE_BYTES = 64_000_000
"""JSON about every token or tensor: vocabularies have 33 MB, indices of large models 15."""
MAX_HEADER_BYTES = 4_000_000
"""Header of a safetensors file: 25,000 tensors."""
MAX_KEY_BYTES = 4096
"""A file with one key."""
MAX_DEPTH = 64
"""Lists and groups inside each other. Python can parse more than it can print or compare."""
MAX_VALUES = 20_000
"""Values of a settings file, counted as often as it refers to them."""
MAX_NUMBER_CHARACTERS = 400
"""Digits of a number in settings: more than any float has."""


def open_file(path: Path) -> BinaryIO:
    """A file, opened for reading: no folder, no pipe and no device, which may have no end.

    Raises:
        OSError: If it cannot be opened, or is none; `strerror` says which.
        ValueError: If the path holds a NUL.
    """
    # Without O_NONBLOCK a pipe would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode  # of what was opened, whatever the name is by now
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        raise OSError(errno.EINVAL, "it is no file")
    return open(descriptor, "rb")  # noqa: PTH123 - a descriptor is no path


def read_text(path: Path, *, max_bytes: int) -> str:
    """The text of a UTF-8 file.

    Raises:
        OSError: If it cannot be read, is no file, or is larger; `strerror` says which.
        ValueError: If it is not UTF-8, or the path holds a NUL.
    """
    with open_file(path) as file:
        raw = file.read(max_bytes + 1)  # what is read, whatever its size is said to be
    if len(raw) > max_bytes:
        raise OSError(errno.EFBIG, f"larger than {max_bytes:,} bytes")
    return raw.decode("utf-8")


def parse_json(text: str | bytes, *, parse_constant: Callable[[str], float] | None = None) -> Any:  # noqa: ANN401 - JSON holds values of any type
    """The value of a JSON text.

    Args:
        text: What was read.
        parse_constant: What to make of `NaN` and `Infinity`; the floats when not given.

    Raises:
        ValueError: If it is none, or has more than MAX_DEPTH lists and objects inside each other.
    """
    try:
        value = json.loads(text, parse_constant=parse_constant)
    except RecursionError:
        raise _too_deep() from None
    require_shallow(value)
    return value


def json_problem(error: ValueError) -> str:
    """What `parse_json` found wrong, without the place in a text that was one line of many."""
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def require_shallow(value: object) -> None:
    """Refuse lists and mappings that are too deep.

    Raises:
        ValueError: If there are more than MAX_DEPTH of them inside each other.
    """
    layer: list[object] = [value]
    for _ in range(MAX_DEPTH + 1):
        layer = [inner for outer in layer for inner in _inside(outer)]
        if not layer:
            return
    raise _too_deep()


def _inside(value: object) -> Any:  # noqa: ANN401 - of whatever is inside
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _too_deep() -> ValueError:
    return ValueError(f"more than {MAX_DEPTH} lists and objects inside each other")
