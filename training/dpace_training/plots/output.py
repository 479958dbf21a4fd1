"""Where figures go: PNG files and one page, each replaced in a single step."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dpace_serve.durable_file import write_whole
from dpace_serve.errors import ConfigError
from dpace_training.plots.figure import Figure
from dpace_training.plots.png import write_png


def write_pngs(figures: Sequence[Figure], folder: Path, *, prefix: str) -> list[Path]:
    """Write every figure as `folder/{prefix}{name}.png`; the folder is made.

    Raises:
        ConfigError: If a file cannot be written.
    """
    paths = []
    for figure in figures:
        path = folder / f"{prefix}{figure.name}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, partial(write_png, figure))
        except OSError as error:
            raise _unwritable(path, error) from None
        paths.append(path)
    return paths


def write_page(path: Path, page: str) -> None:
    """Write an HTML page.

    Raises:
        ConfigError: If the file cannot be written.
    """
    try:
        write_whole(path, lambda file: file.write_text(page, encoding="utf-8"))
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path}: cannot be written ({error.strerror or error}). Free space or the path, or choose "
        "another folder; nothing but the figures is missing."
    )
