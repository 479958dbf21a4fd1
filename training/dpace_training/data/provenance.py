"""What derived files were made from, written beside them, so that stale ones are never used."""

import json
from pathlib import Path
from typing import Any

from dpace_serve.errors import ConfigError


def claim_key(path: Path, key: dict[str, Any], *, what: str) -> None:
    """Write down what a derived file was made from, or check that it is still the same.

    Args:
        path: JSON file beside the derived files.
        key: Everything the derived files depend on.
        what: Name of the derived files in the error message.

    Raises:
        ConfigError: If the file says something else.
    """
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(name for name in key | known if key.get(name) != known.get(name))
        if changed:
            raise ConfigError(
                f"{path.parent}: {what} there were made with another {', '.join(changed)}. "
                "Choose another folder or delete that one."
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(key, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)
