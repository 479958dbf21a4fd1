"""A mistake ends `dpace serve` with one line and exit status 2, and leaves no process behind."""

import json
import os
import shutil
import socket
import subprocess
import time

import pytest

from dpace_serve.demo import bundle
from dpace_serve.errors import CheckpointError

pytestmark = [pytest.mark.engine, pytest.mark.slow]

REAP_TIMEOUT_SECONDS = 10


@pytest.fixture
def drafter(tmp_path):
    """A copy of the bundled drafter, to be damaged."""
    return shutil.copytree(bundle.drafter_folder("dpace"), tmp_path / "drafter")


@pytest.fixture
def incomplete_drafter(drafter):
    """A drafter without one of its tensors, which vLLM itself would serve without a word."""
    from safetensors.torch import load_file, save_file

    weights = drafter / "model.safetensors"
    tensors = load_file(weights)
    del tensors["layers.1.mlp.down_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    return drafter


@pytest.fixture
def refused(serve_command):
    """Run `dpace serve` on a mistake: its last line, after checking how it ended."""

    def run(*arguments, port, target=None, is_alone=True, has_core_failed=False):
        command = serve_command([str(target or bundle.target_folder()), *arguments], port)
        result = subprocess.Popen(
            command.arguments,
            env=command.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        printed, _ = result.communicate(timeout=240)
        lines = printed.strip().splitlines()
        assert result.returncode == 2, printed
        assert lines[-1].startswith("dpace: ")
        if is_alone:
            assert len(lines) == 1, printed
        assert has_core_failed or "Traceback" not in printed
        _require_all_gone(result.pid)
        return lines[-1]

    return run


def _require_all_gone(group):
    """A dead orphan counts as a process until the system has reaped it."""
    deadline = time.monotonic() + REAP_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail(f"processes of group {group} are left")


def test_an_occupied_port(refused, free_port):
    with socket.create_server(("127.0.0.1", free_port)):
        assert f"port {free_port}" in refused(port=free_port)


def test_a_missing_drafter(refused, tmp_path, free_port):
    assert "does not exist" in refused("--drafter", str(tmp_path / "none"), port=free_port)


def test_a_drafter_without_one_tensor(refused, incomplete_drafter, free_port):
    line = refused("--drafter", str(incomplete_drafter), port=free_port)
    assert "layers.1.mlp.down_proj.weight" in line


def test_a_truncated_drafter(refused, drafter, free_port):
    weights = drafter / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in refused("--drafter", str(drafter), port=free_port)


def test_a_drafter_of_another_target(refused, drafter, free_port):
    path = drafter / "config.json"
    config = json.loads(path.read_text())
    config["num_target_layers"] += 1
    path.write_text(json.dumps(config))
    assert "target" in refused("--drafter", str(drafter), port=free_port)


def test_too_many_draft_tokens(refused, drafter, free_port):
    line = refused("--drafter", str(drafter), "--set", "num_draft_tokens=99", port=free_port)
    assert "99" in line


def test_an_unknown_setting(refused, free_port):
    assert "blok_size" in refused("--set", "blok_size=8", port=free_port)


def test_an_engine_that_does_not_start(refused, free_port):
    line = refused("--", "--max-model-len", "9999999", port=free_port, is_alone=False)
    assert "the engine stopped" in line


def test_an_engine_core_that_does_not_start(refused, free_port):
    # The CPU's attention has no blocks of this size, which the core finds in its own process.
    line = refused(
        "--set", "eager=true", "--", "--block-size", "16",
        port=free_port, is_alone=False, has_core_failed=True,
    )  # fmt: skip
    assert "the engine stopped" in line


def test_the_engine_alone_refuses_a_drafter_without_one_tensor(
    engine_environment, incomplete_drafter
):
    from vllm import LLM

    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.down_proj\.weight"):
        LLM(
            model=str(bundle.target_folder()),
            dtype="float32",
            max_model_len=256,
            max_num_seqs=2,
            enforce_eager=True,
            speculative_config={
                "method": "dflash",
                "model": str(incomplete_drafter),
                "num_speculative_tokens": 7,
            },
        )
