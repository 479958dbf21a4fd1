"""A drafter's files, opened once: what is hashed is what is loaded, whatever their names become."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dpace_serve.drafter.weight_files import find_weight_files
from dpace_serve.errors import CheckpointError

CONFIG_FILE = "config.json"
_REVISION_DIGITS = 12
_CHUNK_BYTES = 1 << 20
_DESCRIPTORS = Path("/dev/fd")


def revision(folder: Path) -> str:
    """First 12 hex digits of the SHA-256 over `config.json` and the weight files, in name order.

    For a single file: `cat config.json model.safetensors | sha256sum`.

    Raises:
        CheckpointError: If a file is missing or cannot be read.
    """
    with _opened(folder) as files:
        return _revision_of(folder, files)


@dataclass(frozen=True, slots=True)
class PinnedWeights:
    """The weight files of one revision, open since before they were hashed.

    Attributes:
        folder: A private folder whose entries lead to them, and to no other file; a folder or link
            that takes their place changes nothing. All threads of this process may read it.
    """

    folder: Path
    _source: Path
    _stamps: dict[BinaryIO, tuple[int, int, int]]

    def require_untouched(self) -> None:
        """Check that nobody wrote into the files since before they were hashed.

        Raises:
            CheckpointError: If somebody did.
        """
        for file, stamp in self._stamps.items():
            if _stamp(file) != stamp:
                raise CheckpointError(
                    f"{self._source}: its files must not change while they are loaded, but "
                    f"{Path(file.name).name} did. Write them into a new folder and load that."
                )


@contextmanager
def pinned_weights(folder: Path, expected_revision: str) -> Iterator[PinnedWeights]:
    """The weight files of this very revision, until the context ends.

    Raises:
        CheckpointError: If a file is missing or cannot be read, or the revision is another.
    """
    with ExitStack() as stack:
        files = stack.enter_context(_opened(folder))
        stamps = {file: _stamp(file) for file in files.values()}
        found = _revision_of(folder, files)
        if found != expected_revision:
            raise CheckpointError(
                f"{folder}: the revision must be {expected_revision}, is {found}: its files changed"
                " after they were checked. Write them into a new folder and load that."
            )
        pinned = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dpace-")))
        for name, file in files.items():
            if name != CONFIG_FILE:
                (pinned / name).symlink_to(_DESCRIPTORS / str(file.fileno()))
        yield PinnedWeights(pinned, folder, stamps)


def require_folder(folder: Path) -> None:
    """Check that a folder is there.

    Raises:
        CheckpointError: If it is not.
    """
    if not folder.exists():
        raise CheckpointError(f"{folder}: the drafter's folder does not exist. Check the path.")
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: a drafter is a folder, this is a file. Give the folder around it."
        )


@contextmanager
def _opened(folder: Path) -> Iterator[dict[str, BinaryIO]]:
    """The files that make the revision, by name, in the order in which they are hashed."""
    require_folder(folder)
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for path in [folder / CONFIG_FILE, *find_weight_files(folder)]:
            try:
                file = stack.enter_context(open(path, "rb", opener=_open_at_once))
            except OSError as error:
                raise _unreadable(path, error) from None
            files[path.name] = file
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CheckpointError(
                    f"{path}: must be a file, it is none. Copy the drafter again."
                )
        yield files


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would wait for a writer


def _stamp(file: BinaryIO) -> tuple[int, int, int]:
    # The time of the last change cannot be set back, as that of the last write can.
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _revision_of(folder: Path, files: dict[str, BinaryIO]) -> str:
    digest = hashlib.sha256()
    for name, file in files.items():
        try:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        except OSError as error:
            raise _unreadable(folder / name, error) from None
    return digest.hexdigest()[:_REVISION_DIGITS]


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{path}: cannot be read ({error.strerror}). Check the drafter's folder."
    )
