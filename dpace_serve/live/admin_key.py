"""The admin key: where it comes from, for the server and for the commands that use it."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from dpace_serve.errors import ConfigError

ADMIN_KEY_VARIABLE = "DPACE_ADMIN_KEY"
_OPEN_TO_OTHERS = 0o077
_MAX_BYTES = 4096


def read_admin_key(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """The admin key of a file, else of DPACE_ADMIN_KEY; None where there is neither.

    Raises:
        ConfigError: If the file cannot be read, others may read it, or it holds no usable key.
    """
    if file is not None:
        return _usable(_read_private(file), str(file))
    key = environment.get(ADMIN_KEY_VARIABLE)
    return None if key is None else _usable(key, ADMIN_KEY_VARIABLE)


def _read_private(file: Path) -> str:
    try:
        # Without O_NONBLOCK a pipe would wait for a writer.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise _unreadable(file, error) from None
    try:
        mode = os.fstat(descriptor).st_mode  # of what was opened, whatever the name is by now
        if not stat.S_ISREG(mode):
            raise ConfigError(f"{file}: the admin key must be in a file. Check the path.")
        if mode & _OPEN_TO_OTHERS:
            raise ConfigError(
                f"{file}: only its owner may read an admin key, the mode is "
                f"{stat.S_IMODE(mode):04o}. Run chmod 600 {file}."
            )
        return os.read(descriptor, _MAX_BYTES + 1).decode(errors="replace")
    except OSError as error:
        raise _unreadable(file, error) from None
    finally:
        os.close(descriptor)


def _unreadable(file: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{file}: the admin key cannot be read ({error.strerror}). Check the path.")


def _usable(text: str, source: str) -> str:
    key = text.strip()
    # It travels in a header. The key itself is never shown.
    if not key or len(key) > _MAX_BYTES or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"{source}: an admin key must be one word of printable ASCII characters. Write one, "
            "for example of `openssl rand -hex 32`."
        )
    return key
