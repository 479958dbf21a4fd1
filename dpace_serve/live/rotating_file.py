"""A file of lines that is renamed when it is full, and begins anew."""

import errno
import logging
import os
import stat
from pathlib import Path

from dpace_serve import durable_file
from dpace_serve.serve_config import FsyncPolicy

logger = logging.getLogger(__name__)

OWNER_ONLY = 0o600


class RotatingFile:
    """Appends lines to `path`; full files become path.1, path.2 and so on, the newest is path.1.

    Every line goes to the kernel in one piece before the next, so a process that is killed leaves
    at most the last one torn. A line behind a torn one, left by a crash or a full disk, begins on a
    line of its own. A full file that cannot be renamed grows on, and is tried again when it has
    grown by as much as a file may have; no other file pays for it. What is no regular file, as
    /dev/stdout or a pipe, is only written to. One thread at a time uses it, and one process each
    path.

    What the policy promises:

    - never: a line that was written outlives this process, but not a power cut within the next
      seconds, when the kernel has not stored it yet.
    - rotate: in addition, full files outlive a power cut: they are stored before they are renamed,
      and so is the last one when it is closed.
    - always: each line outlives a power cut before the next is written. A flush takes from 0.1 to
      tens of ms.
    """

    def __init__(self, path: Path, *, max_bytes: int, keep_files: int, fsync: FsyncPolicy) -> None:
        """Open or create the file; only its owner can read it from then on.

        Args:
            path: The file; its folder must exist.
            max_bytes: Size that a file does not exceed, unless a single line is longer.
            keep_files: Full files that are kept, at least one.
            fsync: When lines are forced to the disk.

        Raises:
            OSError: If the file cannot be opened or made its owner's only.
        """
        self._path = path
        self._max_bytes = max_bytes
        self._keep_files = keep_files
        self._fsync = fsync
        self._descriptor: int | None = None
        self._is_regular = True
        self._is_torn = False
        self._num_bytes = 0
        self._full_at = max_bytes
        self._open()

    def write(self, line: str) -> None:
        """Append a line; after an error the next call tries again.

        Args:
            line: Text without a newline.

        Raises:
            OSError: If it was not written whole, or not stored as the policy promises.
        """
        descriptor = self._open()
        content = line.encode() + b"\n"
        grown = self._num_bytes + self._is_torn + len(content)
        if self._is_regular and self._num_bytes and grown > self._full_at:
            descriptor = self._rotate(descriptor)
        self._append(descriptor, b"\n" + content if self._is_torn else content)
        if self._is_regular and self._fsync == "always":
            os.fsync(descriptor)

    def close(self) -> None:
        """Close the file, unless it is closed; a later line opens it again.

        Raises:
            OSError: If what was written could not be stored as the policy promises.
        """
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            if self._is_regular and self._fsync != "never":
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        if self._descriptor is not None:
            return self._descriptor
        # For reading too: the last byte is looked at, and a pipe without a reader does not block.
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, OWNER_ONLY)
        try:
            state = os.fstat(descriptor)
            self._is_regular = stat.S_ISREG(state.st_mode)
            self._num_bytes = state.st_size if self._is_regular else 0
            if self._is_regular and stat.S_IMODE(state.st_mode) != OWNER_ONLY:
                os.fchmod(descriptor, OWNER_ONLY)
            last = os.pread(descriptor, 1, self._num_bytes - 1) if self._num_bytes else b"\n"
            if self._is_regular and self._fsync != "never":
                durable_file.flush(self._path.parent)  # or a new file has no name after a power cut
        except BaseException:
            os.close(descriptor)
            raise
        self._is_torn = last != b"\n"
        self._full_at = self._max_bytes
        self._descriptor = descriptor
        return descriptor

    def _append(self, descriptor: int, content: bytes) -> None:
        written = 0
        try:
            while written < len(content):
                written += os.write(descriptor, content[written:])
        finally:
            self._num_bytes += written
            if written:
                self._is_torn = content[written - 1 : written] != b"\n"

    def _rotate(self, descriptor: int) -> int:
        """Begin the next file, or go on with this one; returns the descriptor to write to."""
        if self._fsync != "never":
            os.fsync(descriptor)
        try:
            self._number_full_file()
        except OSError as error:
            self._full_at = self._num_bytes + self._max_bytes
            logger.error(  # noqa: TRY400  (the cause is outside: a traceback would say nothing)
                "%s is full and cannot be renamed (%s): it grows on, the next attempt is at %d "
                "bytes",
                self._path,
                error,
                self._full_at,
            )
            return descriptor
        os.close(descriptor)
        self._descriptor = None
        return self._open()

    def _number_full_file(self) -> None:
        """Make the file path.1, all or nothing.

        It leaves its place first, as this is what fails where it cannot be renamed.
        """
        leaving = self._numbered(0)
        if leaving.exists():  # by a process that was killed here
            self._enter(leaving)
        try:
            self._path.replace(leaving)
        except FileNotFoundError:
            return  # someone took it away
        try:
            self._enter(leaving)
        except OSError:
            leaving.replace(self._path)
            raise

    def _enter(self, leaving: Path) -> None:
        full = [self._numbered(number) for number in range(1, self._keep_files + 1)]
        for path in (leaving, *full):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        # Up to the first gap only: what failed half-way before must not push out the oldest again.
        gap = next((place for place, path in enumerate(full) if not path.exists()), len(full) - 1)
        for place in range(gap, 0, -1):
            full[place - 1].replace(full[place])
        leaving.replace(full[0])

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
