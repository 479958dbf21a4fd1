"""Files that a thread checks while the engine goes on."""

import gc
import hashlib
import shutil
import threading
import time
from pathlib import Path

import pytest

from dpace_serve.demo.bundle import drafter_folder
from dpace_serve.drafter import checkpoint, content
from dpace_serve.errors import SwapError
from dpace_serve.vllm_engine.opened_drafter import OpenedDrafter


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(drafter_folder("dpace"), tmp_path / "dpace")


@pytest.fixture
def gate(monkeypatch):
    """Hashing waits until it is set."""
    is_open = threading.Event()

    def sha256():
        assert is_open.wait(10)
        return hashlib.sha256()

    monkeypatch.setattr(content, "hashlib", type("Gated", (), {"sha256": staticmethod(sha256)}))
    return is_open


def verdict(opened):
    for _ in range(1000):
        if opened.verdict is not None:
            return opened.verdict
        time.sleep(0.01)
    return pytest.fail("never checked")


def num_open(folder):
    """Descriptors of this process that lead into a folder, whatever it is called by now."""
    gc.collect()
    links = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(str(folder) in str(link) for link in links)


def test_nobody_waits_while_it_is_checked_and_then_its_weights_are_there(folder, gate):
    revision = checkpoint_revision(folder, gate)
    opened = OpenedDrafter(folder, revision)
    assert opened.verdict is None
    with pytest.raises(SwapError, match="must be opened and checked before"):
        opened.weights(folder, revision)
    gate.set()
    assert verdict(opened) == ""
    weights = opened.weights(folder, revision)
    assert [path.name for path in weights.folder.iterdir()] == ["model.safetensors"]
    opened.close()
    assert not weights.folder.exists()
    assert num_open(folder) == 0


def checkpoint_revision(folder, gate):
    gate.set()
    revision = checkpoint.revision(folder)
    gate.clear()
    return revision


def test_another_drafter_than_the_opened_one_is_never_handed_out(folder, tmp_path):
    revision = checkpoint.revision(folder)
    opened = OpenedDrafter(folder, revision)
    assert verdict(opened) == ""
    for asked in ((tmp_path / "other", revision), (folder, "000000000000")):
        with pytest.raises(SwapError, match="must be opened"):
            opened.weights(*asked)
    opened.close()


@pytest.mark.parametrize("damage", ["another revision", "gone"])
def test_what_is_wrong_is_said_and_nothing_stays_open(folder, damage):
    revision = "0" * 12
    if damage == "gone":
        shutil.rmtree(folder)
    opened = OpenedDrafter(folder, revision)
    assert ("does not exist" if damage == "gone" else f"must be {revision}, is") in verdict(opened)
    with pytest.raises(SwapError, match="must be opened"):
        opened.weights(folder, revision)
    assert num_open(folder) == 0


def test_one_that_is_given_up_while_it_is_checked_leaves_nothing_open(folder, gate):
    revision = checkpoint_revision(folder, gate)
    opened = OpenedDrafter(folder, revision)
    opened.close()
    gate.set()
    for _ in range(1000):
        if not any(thread.name == "dpace-check" for thread in threading.enumerate()):
            break
        time.sleep(0.01)
    assert num_open(folder) == 0
    assert opened.verdict is None
