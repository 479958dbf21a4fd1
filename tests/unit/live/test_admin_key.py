"""Where the admin key comes from, and which files are refused."""

import os

import pytest

from dpace_serve.errors import ConfigError
from dpace_serve.live.admin_key import read_admin_key


@pytest.fixture
def write(tmp_path):
    def make(content, mode=0o600):
        file = tmp_path / "admin.key"
        file.write_bytes(content)
        file.chmod(mode)
        return file

    return make


def refusal(file, environment=None):
    with pytest.raises(ConfigError) as caught:
        read_admin_key(file, environment or {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_file_wins_over_the_environment_and_is_stripped(write):
    assert read_admin_key(write(b" secret-1\n"), {"DPACE_ADMIN_KEY": "other"}) == "secret-1"
    assert read_admin_key(None, {"DPACE_ADMIN_KEY": "other\n"}) == "other"
    assert read_admin_key(None, {}) is None


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", "ü".encode(), b"a\x00b", b"\xff"])
def test_an_unusable_key_is_refused_and_not_shown(write, content):
    file = write(content)
    assert refusal(file).startswith(f"{file}: an admin key must be one word")
    assert "two words" not in refusal(file)


def test_an_empty_variable_is_a_mistake_and_not_an_open_door():
    assert refusal(None, {"DPACE_ADMIN_KEY": ""}).startswith("DPACE_ADMIN_KEY: ")


def test_a_very_long_key_is_refused_rather_than_cut(write):
    assert "one word" in refusal(write(b"x" * 100_000))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o601, 0o620])
def test_a_file_that_others_may_touch_is_refused_with_its_cure(write, mode):
    file = write(b"secret", mode)
    assert refusal(file).endswith(f"the mode is {mode:04o}. Run chmod 600 {file}.")


def test_what_is_no_readable_file_is_refused(tmp_path):
    assert "No such file" in refusal(tmp_path / "absent")
    assert "must be in a file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "must be in a file" in refusal(tmp_path / "pipe")
