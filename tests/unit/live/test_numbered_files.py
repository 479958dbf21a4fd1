"""Numbered files: where one ends and the next begins, and what a killed process leaves."""

import os
import resource
import signal
import stat

import pytest

from dpace_serve.live.line_writer import LimitReachedError
from dpace_serve.live.numbered_files import NumberedFiles


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "new" / "lines"


@pytest.fixture
def begin(folder):
    opened = []

    def make(*, max_bytes=10_000, max_file_bytes=1_000):
        files = NumberedFiles(folder, "lines", max_bytes=max_bytes, max_file_bytes=max_file_bytes)
        opened.append(files)
        return files

    yield make
    for files in opened:
        files.close()


def contents(folder):
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def test_a_file_ends_before_it_grows_beyond_its_size(begin, folder):
    files = begin(max_file_bytes=10)
    for line in ("1234", "5678", "9", "longer than a file", "0"):
        files.write(line)
    assert contents(folder) == {
        "lines-00000.jsonl": "1234\n5678\n",
        "lines-00001.jsonl": "9\n",
        "lines-00002.jsonl": "longer than a file\n",
        "lines-00003.jsonl": "0\n",
    }


def test_only_this_user_may_read_them(begin, folder):
    old_mask = os.umask(0)
    try:
        begin().write("a")
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "lines-00000.jsonl").stat().st_mode) == 0o600


def test_a_start_that_writes_nothing_leaves_no_file(begin, folder):
    begin().close()
    assert contents(folder) == {}


def test_a_new_start_never_glues_its_lines_to_a_torn_one(begin, folder):
    begin().write("whole")
    first = folder / "lines-00000.jsonl"
    first.write_text("whole\nto")  # what a killed process may leave
    begin().write("next")
    assert contents(folder) == {"lines-00000.jsonl": "whole\nto", "lines-00001.jsonl": "next\n"}


@pytest.mark.parametrize("look_at_once", [False, True])
def test_two_processes_never_write_to_one_file(begin, folder, monkeypatch, look_at_once):
    if look_at_once:  # neither sees the file of the other before it makes its own
        monkeypatch.setattr(NumberedFiles, "_highest_number", lambda files: -1)
    files = [begin(), begin()]
    for line in ("a", "b"):
        for number, one in enumerate(files):
            one.write(f"{line}{number}")
    assert contents(folder) == {
        "lines-00000.jsonl": "a0\nb0\n",
        "lines-00001.jsonl": "a1\nb1\n",
    }


def test_the_limit_holds_for_all_files_and_over_restarts(begin, folder):
    files = begin(max_bytes=10, max_file_bytes=4)
    for line in ("12", "34"):
        files.write(line)
    (folder / "of somebody else").write_text("xy")
    again = begin(max_bytes=10, max_file_bytes=4)
    with pytest.raises(LimitReachedError, match="holds 8 of at most 10 bytes"):
        again.write("56")
    again.write("5")  # 8 + 2 = 10
    with pytest.raises(LimitReachedError):
        again.write("")
    assert sum(map(len, contents(folder).values())) == 10


def test_what_another_process_wrote_counts_from_the_next_file_on(begin, folder):
    files = begin(max_bytes=20, max_file_bytes=4)
    files.write("12")
    (folder / "lines-00007.jsonl").write_text("of another one\n")
    with pytest.raises(LimitReachedError, match="holds 18 of at most 20 bytes"):
        files.write("345")
    assert sorted(contents(folder)) == ["lines-00000.jsonl", "lines-00007.jsonl"]


def test_files_that_are_taken_away_make_room_and_numbers_are_not_used_again(begin, folder):
    files = begin(max_bytes=6, max_file_bytes=3)
    for line in ("12", "34"):
        files.write(line)
    with pytest.raises(LimitReachedError):
        files.write("56")
    for path in folder.iterdir():
        path.unlink()
    files.write("56")
    assert contents(folder) == {"lines-00002.jsonl": "56\n"}


def test_lines_do_not_go_into_a_file_that_was_deleted(begin, folder):
    files = begin()
    files.write("a")
    (folder / "lines-00000.jsonl").unlink()
    files.write("b")
    (folder / "lines-00001.jsonl").unlink()
    folder.rmdir()
    files.write("c")
    assert contents(folder) == {"lines-00002.jsonl": "c\n"}


def test_a_disk_that_fills_leaves_no_part_of_a_line(begin, folder):
    files = begin()
    files.write("12345")
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # As on a full disk, the kernel writes up to here and then refuses.
        resource.setrlimit(resource.RLIMIT_FSIZE, (9, old_limit[1]))
        with pytest.raises(OSError, match="File too large"):
            files.write("67890")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert contents(folder) == {"lines-00000.jsonl": "12345\n"}
    files.write("67890")
    assert contents(folder) == {"lines-00000.jsonl": "12345\n67890\n"}
