"""Weights that stay what they were when they were hashed, whatever happens to their names."""

import os
import shutil
import threading

import pytest

from dpace_serve.demo.bundle import drafter_folder
from dpace_serve.drafter import checkpoint, tensors
from dpace_serve.drafter.content import pinned_weights
from dpace_serve.errors import CheckpointError


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(drafter_folder("dpace"), tmp_path / "dpace")


def test_pinned_are_the_weight_files_and_nothing_else(folder):
    (folder / "model.bin").write_bytes(b"a pickle")
    with pinned_weights(folder, checkpoint.revision(folder)) as pinned:
        assert [path.name for path in pinned.folder.iterdir()] == ["model.safetensors"]
        same = (pinned.folder / "model.safetensors").read_bytes()
        assert same == (folder / "model.safetensors").read_bytes()
    assert not pinned.folder.exists()


def test_another_folder_under_the_same_name_changes_nothing_that_is_pinned(folder, tmp_path):
    expected = tensors.load([folder / "model.safetensors"])
    with pinned_weights(folder, checkpoint.revision(folder)) as pinned:
        folder.rename(tmp_path / "before")
        shutil.copytree(drafter_folder("dflash"), folder)
        loaded = tensors.load([pinned.folder / "model.safetensors"])
    assert all((loaded[name] == tensor).all() for name, tensor in expected.items())


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_files_that_are_written_after_they_were_hashed_are_refused(folder, name):
    """In place, so that the open file is the changed one; and the time of the write is set back."""
    file = folder / name
    written = file.stat()
    with pinned_weights(folder, checkpoint.revision(folder)) as pinned:
        pinned.require_untouched()
        with file.open("r+b") as out:
            out.seek(-1, os.SEEK_END)
            out.write(b"!")
        os.utime(file, ns=(written.st_atime_ns, written.st_mtime_ns))
        assert file.stat().st_size == written.st_size
        with pytest.raises(CheckpointError, match=f"must not change .* but {name} did"):
            pinned.require_untouched()


def test_files_of_another_revision_are_refused(folder):
    revision = checkpoint.revision(folder)
    shutil.copy(drafter_folder("dflash") / "model.safetensors", folder)
    with (
        pytest.raises(CheckpointError, match=f"revision must be {revision}, is"),
        pinned_weights(folder, revision),
    ):
        pass


def test_shards_are_pinned_under_their_names(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    weights = '{"weight_map": {"fc.weight": "model-00001-of-00001.safetensors"}}'
    (folder / "model.safetensors.index.json").write_text(weights)
    with pinned_weights(folder, checkpoint.revision(folder)) as pinned:
        assert [path.name for path in pinned.folder.iterdir()] == [
            "model-00001-of-00001.safetensors"
        ]


def test_a_pipe_is_refused_and_not_waited_for(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    errors = []

    def hash_it():
        try:
            checkpoint.revision(folder)
        except CheckpointError as error:
            errors.append(str(error))

    thread = threading.Thread(target=hash_it, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert "must be a file" in errors[0]
