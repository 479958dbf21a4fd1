"""Lines in numbered files of one folder, which together stay below a limit."""

import os
from contextlib import suppress
from itertools import count
from pathlib import Path

from dpace_serve.live.line_writer import LimitReachedError

FOLDER_MODE = 0o700
FILE_MODE = 0o600


class NumberedFiles:
    """Writes lines to `STEM-00000.jsonl`, `STEM-00001.jsonl` and so on; a `LineSink`.

    Each file belongs to one process from its first line on, since a start never goes on with a file
    that is there already: what a killed process left of its last line stays at the end of a file,
    and several processes may share a folder, where each counts the lines of the others at its next
    file. Nothing is deleted; files that are taken away make room. Lines are handed to the operating
    system one by one: a process that is killed loses none of them, a power cut may lose the last
    seconds.
    """

    def __init__(self, folder: Path, stem: str, *, max_bytes: int, max_file_bytes: int) -> None:
        """Make the folder, and count what lies there.

        Args:
            folder: Made for this user alone where there is none.
            stem: What the names of the files begin with.
            max_bytes: Limit of all files of the folder together, also of those of others.
            max_file_bytes: Size at which the next file is begun.

        Raises:
            OSError: If the folder cannot be made or read.
        """
        self._folder = folder
        self._stem = stem
        self._max_bytes = max_bytes
        self._max_file_bytes = max_file_bytes
        self._path: Path | None = None
        self._descriptor = -1
        self._file_bytes = 0
        self._number = -1
        _make_folder(folder)
        self._folder_bytes = _size_of(folder)

    def write(self, line: str) -> None:
        """Write a line, whole or not at all.

        Args:
            line: Without its newline.

        Raises:
            OSError: If the disk refuses.
            LimitReachedError: If the files of the folder would grow beyond their limit.
        """
        data = f"{line}\n".encode()
        needs_next = self._is_outgrown_by(len(data)) or not self._is_in_place()
        if needs_next:
            _make_folder(self._folder)
            self._folder_bytes = _size_of(self._folder)
        self._require_room(len(data))
        if needs_next:
            self._begin_next()
        self._append(data)

    def close(self) -> None:
        """Close the file; a further line would begin the next one."""
        if self._path is not None:
            self._path = None
            os.close(self._descriptor)

    def _require_room(self, num_bytes: int) -> None:
        if self._folder_bytes + num_bytes > self._max_bytes:
            self._folder_bytes = _size_of(self._folder)  # some may have been taken away
        if self._folder_bytes + num_bytes > self._max_bytes:
            raise LimitReachedError(
                f"{self._folder} holds {self._folder_bytes} of at most {self._max_bytes} bytes; "
                "take files away, or raise the limit"
            )

    def _is_outgrown_by(self, num_bytes: int) -> bool:
        is_too_big = self._file_bytes + num_bytes > self._max_file_bytes
        return is_too_big and self._file_bytes > 0  # a line longer than a file has one of its own

    def _is_in_place(self) -> bool:
        """Whether the open file still has its name: lines to a deleted one would be lost."""
        if self._path is None:
            return False
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False
        opened = os.fstat(self._descriptor)
        return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)

    def _begin_next(self) -> None:
        self.close()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        for number in count(1 + max(self._number, self._highest_number())):
            path = self._folder / f"{self._stem}-{number:05d}.jsonl"
            with suppress(FileExistsError):  # another process was faster
                self._descriptor = os.open(path, flags, FILE_MODE)
                self._path, self._number, self._file_bytes = path, number, 0
                return

    def _highest_number(self) -> int:
        prefix = f"{self._stem}-"
        names = [path.stem.removeprefix(prefix) for path in self._folder.glob(f"{prefix}*.jsonl")]
        return max((int(name) for name in names if name.isdecimal()), default=-1)

    def _append(self, data: bytes) -> None:
        num_written = 0
        try:
            while num_written < len(data):  # a disk that fills takes a part
                num_written += os.write(self._descriptor, data[num_written:])
        except OSError:
            self._remove_torn_line()
            raise
        self._file_bytes += len(data)
        self._folder_bytes += len(data)

    def _remove_torn_line(self) -> None:
        try:
            os.ftruncate(self._descriptor, self._file_bytes)
        except OSError:
            self.close()  # the torn line stays, as the last of its file


def _make_folder(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)


def _size_of(folder: Path) -> int:
    """Bytes of all files directly in a folder."""
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # taken away meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total
