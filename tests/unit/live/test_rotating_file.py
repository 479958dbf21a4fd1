"""Files of lines: when they are full, who can read them, and what a crash or a full disk leaves."""

import contextlib
import errno
import os
import resource
import stat
from pathlib import Path

import pytest

from dpace_serve.live.rotating_file import RotatingFile


def opened(path, *, max_bytes=1_000, keep_files=3, fsync="never"):
    return RotatingFile(path, max_bytes=max_bytes, keep_files=keep_files, fsync=fsync)


def contents(path):
    return {file.name: file.read_text() for file in path.parent.iterdir()}


@contextlib.contextmanager
def files_limited_to(num_bytes):
    """As a disk that is full after so many bytes of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_files_are_numbered_the_newest_first_and_the_oldest_makes_room(tmp_path):
    path = tmp_path / "log"
    file = opened(path, max_bytes=10, keep_files=2)
    for number in range(1, 10):
        file.write(f"n-{number}")  # three bytes and a newline: two fit
    assert contents(path) == {"log": "n-9\n", "log.1": "n-7\nn-8\n", "log.2": "n-5\nn-6\n"}


def test_a_file_that_would_be_exactly_full_is_still_used(tmp_path):
    path = tmp_path / "log"
    file = opened(path, max_bytes=8)
    for line in ("one", "two", "six"):
        file.write(line)
    assert contents(path) == {"log": "six\n", "log.1": "one\ntwo\n"}


def test_a_line_longer_than_a_file_may_be_is_kept_whole_in_its_own(tmp_path):
    path = tmp_path / "log"
    file = opened(path, max_bytes=8)
    for line in ("a", "b" * 20, "c"):
        file.write(line)
    assert contents(path) == {"log": "c\n", "log.1": "b" * 20 + "\n", "log.2": "a\n"}


def test_a_restart_goes_on_in_the_same_file_and_counts_what_is_there(tmp_path):
    path = tmp_path / "log"
    for line in ("one", "two", "six"):
        file = opened(path, max_bytes=8)
        file.write(line)
        file.close()
    assert contents(path) == {"log": "six\n", "log.1": "one\ntwo\n"}


def test_a_line_after_a_torn_one_begins_on_a_line_of_its_own(tmp_path):
    path = tmp_path / "log"
    path.write_text("one\nto")
    file = opened(path)
    file.write("three")
    file.write("four")
    assert path.read_text() == "one\nto\nthree\nfour\n"


def test_a_full_file_with_a_torn_end_is_left_behind_as_it_is(tmp_path):
    path = tmp_path / "log"
    path.write_text("one\nto")
    # 6 bytes, a newline that ends the torn line, and 4 more: one too many.
    opened(path, max_bytes=10).write("six")
    assert contents(path) == {"log": "six\n", "log.1": "one\nto"}


def test_a_line_cut_by_a_full_disk_is_reported_and_the_next_begins_on_its_own(tmp_path):
    path = tmp_path / "log"
    file = opened(path)
    file.write("one")
    with files_limited_to(6), pytest.raises(OSError, match="File too large"):
        file.write("two")
    assert path.read_text() == "one\ntw"
    file.write("three")
    assert path.read_text() == "one\ntw\nthree\n"


def test_a_disk_that_takes_only_the_separating_newline_leaves_no_empty_line(tmp_path):
    path = tmp_path / "log"
    path.write_text("to")
    file = opened(path)
    with files_limited_to(3), pytest.raises(OSError, match="File too large"):
        file.write("two")
    file.write("three")
    assert path.read_text() == "to\nthree\n"


def test_a_full_disk_is_an_error_each_time_and_the_device_stays_where_it_is():
    file = opened(Path("/dev/full"), max_bytes=1)
    for _ in range(3):
        with pytest.raises(OSError) as raised:  # noqa: PT011  (the number is checked)
            file.write("one")
        assert raised.value.errno == errno.ENOSPC
    file.close()
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)
    assert stat.S_IMODE(Path("/dev/full").stat().st_mode) & 0o066


def test_a_pipe_is_written_to_and_never_renamed(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    file = opened(path, max_bytes=4)
    for line in ("one", "two"):
        file.write(line)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(reader, 100) == b"one\ntwo\n"
    os.close(reader)
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]


def test_only_the_owner_can_read_what_is_written(tmp_path):
    path = tmp_path / "log"
    before = os.umask(0)
    try:
        path.write_text("readable by all\n")
        path.chmod(0o644)
        file = opened(path, max_bytes=4)
        for line in ("one", "two"):
            file.write(line)
    finally:
        os.umask(before)
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()}
    assert modes == {"log": 0o600, "log.1": 0o600, "log.2": 0o600}


def test_a_file_that_someone_took_away_is_begun_anew_when_it_is_full(tmp_path):
    path = tmp_path / "log"
    file = opened(path, max_bytes=8)
    for line in ("one", "two"):
        file.write(line)
    path.rename(tmp_path / "taken")
    file.write("six")
    assert contents(path) == {"log": "six\n", "taken": "one\ntwo\n"}


@pytest.fixture
def pinned(monkeypatch):
    """Make a file that cannot be renamed, as one that is mounted by itself."""
    rename, held = Path.replace, set()

    def replace(path, new):
        if path in held:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return rename(path, new)

    monkeypatch.setattr(Path, "replace", replace)
    return held


def test_a_file_that_cannot_be_renamed_grows_on_and_the_full_ones_stay(tmp_path, pinned, caplog):
    path = tmp_path / "log"
    file = opened(path, max_bytes=8)
    for line in ("one", "two", "six", "ten"):
        file.write(line)
    full = {"log.1": "one\ntwo\n"}
    assert contents(path) == {"log": "six\nten\n", **full}
    pinned.add(path)
    for number in range(20):
        file.write(f"n{number:02}")
    kept = "six\nten\n" + "".join(f"n{number:02}\n" for number in range(20))
    assert contents(path) == {"log": kept, **full}
    # Tried at 8 bytes, and again after each 8 more: 80 of the 88 bytes are behind an attempt.
    assert caplog.text.count("busy") == 10


def test_it_is_renamed_once_that_works_again(tmp_path, pinned):
    path = tmp_path / "log"
    file = opened(path, max_bytes=8)
    pinned.add(path)
    for line in ("one", "two", "six"):
        file.write(line)
    pinned.clear()
    file.write("ten")  # 16 bytes: as much again as a file may have
    file.write("new")
    assert contents(path) == {"log": "new\n", "log.1": "one\ntwo\nsix\nten\n"}
    for line in ("a-1", "b-1"):
        file.write(line)
    assert contents(path)["log"] == "b-1\n"  # from then on at its usual size


@pytest.mark.parametrize("name", ["log.1", "log.2", "log.3"])
def test_a_folder_in_place_of_a_full_file_costs_no_other_and_no_line(tmp_path, name):
    path = tmp_path / "log"
    file = opened(path, max_bytes=4, keep_files=3)
    (tmp_path / name).mkdir()
    (tmp_path / name / "inside").write_text("x")
    for number in (1, 2, 3):
        full = tmp_path / f"log.{number}"
        if full.name != name:
            full.write_text(f"full {number}")
    for line in ("one", "two", "six", "ten"):
        file.write(line)
    assert path.read_text() == "one\ntwo\nsix\nten\n"
    assert (tmp_path / name / "inside").read_text() == "x"
    rest = {full.name: full.read_text() for full in tmp_path.glob("log.?") if full.is_file()}
    assert rest == {f"log.{n}": f"full {n}" for n in (1, 2, 3) if f"log.{n}" != name}


def test_a_full_file_that_cannot_be_renamed_costs_no_other_however_often_it_is_tried(
    tmp_path, pinned
):
    path = tmp_path / "log"
    file = opened(path, max_bytes=4, keep_files=4)
    for line in ("one", "two", "six", "ten", "end"):
        file.write(line)
    pinned.add(tmp_path / "log.1")
    for line in ("a-1", "b-1", "c-1", "d-1"):
        file.write(line)
    # The oldest made room once; nothing is lost after that.
    kept = {"log.1": "ten\n", "log.3": "six\n", "log.4": "two\n"}
    assert contents(path) == {"log": "end\na-1\nb-1\nc-1\nd-1\n", **kept}
    pinned.clear()
    file.write("new")
    assert {"log.2": "ten\n"}.items() < contents(path).items()


def test_a_kill_between_two_renames_costs_no_full_file(tmp_path):
    path = tmp_path / "log"
    (tmp_path / "log.0").write_text("old\n")  # was on its way to log.1
    (tmp_path / "log.1").write_text("older\n")
    file = opened(path, max_bytes=4)
    file.write("one")
    file.write("two")
    assert contents(path) == {
        "log": "two\n", "log.1": "one\n", "log.2": "old\n", "log.3": "older\n"
    }  # fmt: skip


def test_after_a_failed_opening_the_next_line_tries_again(tmp_path):
    path = tmp_path / "logs" / "log"
    path.parent.mkdir()
    file = opened(path, max_bytes=4)
    file.write("one")
    path.unlink()
    path.parent.rmdir()
    with pytest.raises(FileNotFoundError):
        file.write("two")
    path.parent.mkdir()
    file.write("six")
    assert contents(path) == {"log": "six\n"}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        # Whenever a file is opened, the folder that names it; before a full file is renamed, and
        # when the last one is closed, the file.
        ("never", []),
        ("rotate", ["folder", "one\ntwo\n", "folder", "six\n"]),
        ("always", ["folder", "one\n", "one\ntwo\n", "one\ntwo\n", "folder", "six\n", "six\n"]),
    ],
)
def test_lines_are_forced_to_the_disk_as_the_policy_says(tmp_path, monkeypatch, policy, expected):
    path = tmp_path / "log"
    forced = []

    def fsync(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        forced.append("folder" if is_folder else os.pread(descriptor, 100, 0).decode())

    monkeypatch.setattr(os, "fsync", fsync)
    file = opened(path, max_bytes=8, fsync=policy)
    for line in ("one", "two", "six"):
        file.write(line)
    file.close()
    assert forced == expected


def test_a_missing_folder_is_an_error_at_once(tmp_path):
    with pytest.raises(FileNotFoundError):
        opened(tmp_path / "none" / "log")
