"""Writes what compose.yaml needs beside the repository: keys, data folders, and whose they are.

python deploy/make_secrets.py [FOLDER]

A key that is there stays as it is; delete its file for a new one. Needs the standard library only.
"""

import os
import secrets
import sys
from pathlib import Path

IMAGE_USER = 10001
"""Whom root gives the files to: no container runs as root."""
KEYS = ("admin_key", "client_key", "grafana_admin_password", "loadtest_key", "metrics_key")
API_KEYS = ("client_key", "loadtest_key")
"""Those that the server takes as API keys; it reads them from one file, `api_keys`."""
DATA_FOLDERS = ("grafana", "loadtest", "prometheus")


def main(folder: Path) -> None:
    """Write `secrets/`, `data/` and `.env` in a folder, for its user alone."""
    owner = _owner()
    keys = _folder(folder / "secrets", owner)
    for name in KEYS:
        if not (keys / name).exists():
            _write(keys / name, secrets.token_hex(32) + "\n", owner)
    of_clients = "".join((keys / name).read_text(encoding="ascii") for name in API_KEYS)
    _write(keys / "api_keys", of_clients, owner)
    _folder(folder / "data", owner)
    for name in DATA_FOLDERS:
        _folder(folder / "data" / name, owner)
    _write(folder / ".env", f"DPACE_UID={owner[0]}\nDPACE_GID={owner[1]}\n", owner)
    sys.stdout.write(f"{keys}: {', '.join((*KEYS, 'api_keys'))}\n")


def _owner() -> tuple[int, int]:
    return (IMAGE_USER, IMAGE_USER) if os.geteuid() == 0 else (os.geteuid(), os.getegid())


def _folder(path: Path, owner: tuple[int, int]) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chown(path, *owner)
    return path


def _write(path: Path, text: str, owner: tuple[int, int]) -> None:
    # Beside and then renamed: neither a moment with an open mode nor half a file.
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        os.fchown(file.fileno(), *owner)
    new.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
