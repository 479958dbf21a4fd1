"""Files that hold keys: one word per line, for the owner's eyes only."""

import os
import stat
from pathlib import Path

from dpace_serve.errors import ConfigError

_FOR_OTHERS = 0o007
_FOR_GROUP = 0o070
_FOR_GROUP_TO_CHANGE = 0o030
_MAX_KEY_CHARACTERS = 4096
_MAX_BYTES = 64 * 1024


def read_keys(file: Path, what: str) -> tuple[str, ...]:
    """The keys of a file, one per line; empty lines do not count.

    Args:
        file: Where they are.
        what: What one of them is called, as `an API key`.

    Raises:
        ConfigError: If the file cannot be read, others may read it, or a line is no usable key.
    """
    text = _read_private(file, what)
    lines = [line for line in text.splitlines() if line.strip()]
    return tuple(usable_key(line, str(file), what) for line in lines or [""])


def usable_key(text: str, source: str, what: str) -> str:
    """A key without the space around it.

    Args:
        text: What was found.
        source: Where, for the message. The key itself is never shown.
        what: What it is called, as `an API key`.

    Raises:
        ConfigError: If it cannot travel in a header.
    """
    key = text.strip()
    is_word = key.isascii() and key.isprintable() and " " not in key
    if not key or len(key) > _MAX_KEY_CHARACTERS or not is_word:
        raise ConfigError(
            f"{source}: {what} must be one word of printable ASCII characters. Write one, "
            "for example of `openssl rand -hex 32`."
        )
    return key


def _read_private(file: Path, what: str) -> str:
    try:
        # Without O_NONBLOCK a pipe would wait for a writer.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise _unreadable(file, what, error) from None
    try:
        status = os.fstat(descriptor)  # of what was opened, whatever the name is by now
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{file}: {what} must be in a file. Check the path.")
        if status.st_mode & _closed_to(status.st_uid):
            raise ConfigError(
                f"{file}: only its owner may read {what}, the mode is "
                f"{stat.S_IMODE(status.st_mode):04o}. Run chmod 600 {file}."
            )
        content = os.read(descriptor, _MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(file, what, error) from None
    finally:
        os.close(descriptor)
    if len(content) > _MAX_BYTES:
        raise ConfigError(
            f"{file}: {what} must be one word, and the file at most {_MAX_BYTES} bytes. Write one "
            "key per line."
        )
    return content.decode(errors="replace")


def _closed_to(owner: int) -> int:
    """Rights that the file must not give.

    A file of another owner was given to this process by its group, as Kubernetes does with secrets:
    then the group may read it.
    """
    is_own = owner == os.geteuid()
    return _FOR_OTHERS | (_FOR_GROUP if is_own else _FOR_GROUP_TO_CHANGE)


def _unreadable(file: Path, what: str, error: OSError | ValueError) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return ConfigError(f"{file}: {what} cannot be read ({reason}). Check the path.")
