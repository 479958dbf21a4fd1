"""The admin key: where it comes from, for the server and for the commands that use it."""

from collections.abc import Mapping
from pathlib import Path

from dpace_serve.errors import ConfigError
from dpace_serve.key_file import read_keys, usable_key

ADMIN_KEY_VARIABLE = "DPACE_ADMIN_KEY"
_WHAT = "an admin key"


def read_admin_key(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """The admin key of a file, else of DPACE_ADMIN_KEY; None where there is neither.

    Raises:
        ConfigError: If the file cannot be read, others may read it, or it holds no usable key.
    """
    if file is not None:
        keys = read_keys(file, _WHAT)
        if len(keys) > 1:
            raise ConfigError(
                f"{file}: there must be one admin key, found {len(keys)} lines. Keep one."
            )
        return keys[0]
    key = environment.get(ADMIN_KEY_VARIABLE)
    return None if key is None else usable_key(key, ADMIN_KEY_VARIABLE, _WHAT)
