"""Results for machines: the file that `--json` names."""

import json
from pathlib import Path
from typing import Any

from dpace_serve.errors import ConfigError


def require_writable(path: Path | None) -> None:
    """Refuse an output path now rather than after minutes of work; none writes nothing.

    Raises:
        ConfigError: If the path is a folder, or its folder does not exist.
    """
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise ConfigError(f"{path}: must be a file in an existing folder. Choose another path.")


def write_json(path: Path | None, values: dict[str, Any]) -> None:
    """Write a result, indented; none writes nothing.

    Raises:
        ConfigError: If the file cannot be written.
    """
    if path is None:
        return
    try:
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}). Choose another path."
        ) from None
