"""The files of the page: a closed list, read once when the server starts."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

logger = logging.getLogger(__name__)

PAGE = "index.html"
PLOTLY = "plotly.min.js"

_FOLDER = Path(__file__).parent / "static"
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file as it is sent.

    Attributes:
        content: Its bytes.
        media_type: What it is.
        etag: Names this very content; quoted, as a header wants it.
    """

    content: bytes
    media_type: str
    etag: str


def read_files() -> Mapping[str, StaticFile]:
    """The page, its parts and plotly.js, by name.

    Without plotly.js the page shows its numbers as tables, so a missing one is only logged.
    """
    paths = {path.name: path for path in sorted(_FOLDER.iterdir()) if path.is_file()}
    plotly = _plotly_path()
    if plotly is None:
        logger.warning("%s is not installed, so /dpace/ shows no charts. Install plotly.", PLOTLY)
    else:
        paths[PLOTLY] = plotly
    return {name: _read(path) for name, path in paths.items()}


def _plotly_path() -> Path | None:
    # Found, not imported: the package is large, and only one file of it is wanted.
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "package_data" / PLOTLY
    return path if path.is_file() else None


def _read(path: Path) -> StaticFile:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return StaticFile(content, _MEDIA_TYPES[path.suffix], f'"{digest[:32]}"')
