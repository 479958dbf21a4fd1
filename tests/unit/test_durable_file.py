import os
from pathlib import Path

import pytest

from dpace_serve.durable_file import write_whole


def test_the_bytes_are_on_the_disk_before_the_file_gets_its_name(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    done = []
    fsync = os.fsync

    def note(descriptor):
        done.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    write_whole(path, lambda file: file.write_text("whole"))
    # Its bytes while it has no name yet, and then the name.
    assert done == [(str(tmp_path / "result.tmp"), False), (str(tmp_path), True)]
    assert path.read_text() == "whole"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")

    def half(file):
        file.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, half)
    assert [one.name for one in tmp_path.iterdir()] == ["result.json"]
    assert path.read_text() == "old"
