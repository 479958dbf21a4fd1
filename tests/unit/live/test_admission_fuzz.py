"""Attacks on the folders that may be loaded, and on the file of the admin key."""

import os
import shutil
import stat
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dpace_serve.drafter import checkpoint
from dpace_serve.errors import SwapError
from dpace_serve.live.admin_key import read_admin_key
from dpace_serve.live.admission import DrafterRequest
from tests.fuzzing import FUZZ, damaged, outcome

_PARTS = (
    "..", ".", "", "/", "dpace", "link", "out", "loop", "etc", "\0", "a\nb", "\ud800", "~", "*",
    "x" * 300, "config.json", "\u202e", "dpace/..", "//", "%2e%2e", "\\..\\",
)  # fmt: skip
PARTS = st.sampled_from(_PARTS)


@FUZZ
@given(parts=st.lists(PARTS | st.text(max_size=5), min_size=1, max_size=12))
def test_no_path_leads_out_of_the_root(admission, root, parts):
    secret = root.parent / "secret"
    if not secret.exists():
        shutil.copytree(root / "dpace", secret)
        (root / "link").symlink_to("dpace")
        (root / "out").symlink_to(secret)
        (root / "loop").symlink_to("loop")
    try:
        request = DrafterRequest(folder="/".join(parts))
    except ValidationError:
        return
    candidate = outcome(lambda: admission.admit(request), refusals=SwapError)
    if candidate is not None:
        assert candidate.folder.is_relative_to(root.resolve())
        assert candidate.folder.name in ("dpace", "dflash")


@FUZZ
@given(raw=damaged(b"0123456789abcdef\n"))
def test_any_key_file_holds_one_word_or_is_refused(tmp_path, raw):
    path = tmp_path / "key"
    path.write_bytes(raw)
    path.chmod(0o600)
    key = outcome(lambda: read_admin_key(path, {}))
    assert key is None or (key.isascii() and key.isprintable() and " " not in key)


@pytest.mark.parametrize("name", ["model.py", "configuration_evil.py", "tokenizer.model"])
def test_other_files_beside_the_weights_are_no_part_of_what_is_loaded(admission, root, name):
    revision = checkpoint.revision(root / "dpace")
    (root / "dpace" / name).write_text("raise SystemExit('run')")
    assert admission.admit(DrafterRequest(folder="dpace")).revision == revision


def test_code_named_for_the_configuration_is_refused(admission, root):
    path = root / "dpace" / "config.json"
    text = path.read_text().rstrip().removesuffix("}")
    path.write_text(f'{text}, "auto_map": {{"AutoConfig": "evil.Config"}}}}')
    with pytest.raises(SwapError, match="auto_map must not name AutoConfig") as caught:
        admission.admit(DrafterRequest(folder="dpace"))
    assert caught.value.status == 422


def test_weights_that_become_a_pipe_after_they_were_looked_at_stop_nobody(
    admission, root, monkeypatch
):
    weights = root / "dpace" / "model.safetensors"
    looked_at = type(admission)._require_plain_files

    def swap_after(self, folder, given):
        looked_at(self, folder, given)
        weights.unlink()
        os.mkfifo(weights)

    monkeypatch.setattr(type(admission), "_require_plain_files", swap_after)
    caught = []

    def admit():
        with pytest.raises(SwapError) as raised:
            admission.admit(DrafterRequest(folder="dpace"))
        caught.append(raised.value)

    thread = threading.Thread(target=admit, daemon=True)
    thread.start()
    thread.join(20)
    assert [error.status for error in caught] == [422]
    assert stat.S_ISFIFO(weights.stat().st_mode)


def test_a_folder_that_becomes_a_link_after_it_was_admitted_is_not_loaded(admission, root):
    request = DrafterRequest(folder="dpace")
    candidate = admission.admit(request)
    shutil.move(root / "dpace", root.parent / "moved")
    (root / "dpace").symlink_to(root.parent / "moved")
    with pytest.raises(SwapError, match="must not change while it is loaded"):
        admission.require_unchanged(candidate, request)
