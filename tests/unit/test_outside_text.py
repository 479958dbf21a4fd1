"""The limits of what is read from others, each by hand."""

import os

import pytest

from dpace_serve.outside_text import json_problem, parse_json, read_text, require_shallow


def test_a_text_may_have_as_many_bytes_as_are_allowed_and_no_more(tmp_path):
    path = tmp_path / "text"
    path.write_text("äbc")  # four bytes
    assert read_text(path, max_bytes=4) == "äbc"
    with pytest.raises(OSError, match="larger than 3 bytes"):
        read_text(path, max_bytes=3)


def test_a_pipe_a_device_and_a_folder_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, reason in ((tmp_path / "pipe", "no file"), ("/dev/zero", "no file"), ("/", "direct")):
        with pytest.raises(OSError, match=reason):
            read_text(path, max_bytes=10)


@pytest.mark.parametrize("depth", [0, 1, 64])
def test_as_deep_as_is_allowed(depth):
    assert parse_json("[" * depth + "1" + "]" * depth) is not None
    assert parse_json('{"a":' * depth + "1" + "}" * depth) is not None


@pytest.mark.parametrize("depth", [65, 900, 100_000])
@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_deeper_is_refused_with_its_reason(depth, begin, end):
    with pytest.raises(ValueError, match="more than 64 lists and objects") as caught:
        parse_json(begin * depth + "1" + end * depth)
    assert json_problem(caught.value) == "more than 64 lists and objects inside each other"


def test_what_contains_itself_is_too_deep():
    value = []
    value.append(value)
    with pytest.raises(ValueError, match="more than 64"):
        require_shallow(value)
