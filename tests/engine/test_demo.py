import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine

WORKLOADS = {"json", "csv", "sql", "dates", "units", "arithmetic", "letters", "code"}


@pytest.fixture(scope="module")
def port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number: int = listener.getsockname()[1]
        return number


@pytest.fixture(scope="module")
def finished(port, tmp_path_factory):
    """The real command, once, with few prompts: its exit, its output, its JSON."""
    file = tmp_path_factory.mktemp("demo") / "result.json"
    command = [sys.executable, "-m", "dpace_serve.cli", "demo", "--json", str(file)]
    done = subprocess.run(
        [*command, "--port", str(port), "--prompts-per-workload", "2"],
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return done, json.loads(file.read_text())


# The three servers start inside the first test that asks for the fixture.
@pytest.mark.timeout(900)
def test_speculation_changes_no_token(finished):
    _, result = finished
    assert result["lossless"] is True
    assert result["compared"] == "tokens"
    assert result["prompts"] == 16
    assert [arm["identical_answers"] for arm in result["arms"][1:]] == [16, 16]


@pytest.mark.timeout(900)
def test_the_result_keeps_the_contract(finished):
    _, result = finished
    assert isinstance(result["target"], str)
    assert result["block_size"] >= 8
    assert result["temperature"] == 0.0
    none, *drafters = result["arms"]
    assert set(none) == {"name", "tokens_per_second"}
    assert (none["name"], [arm["name"] for arm in drafters]) == ("none", ["dflash", "dpace"])
    for arm in drafters:
        rates = arm["accepted_per_position"]
        assert len(rates) == result["block_size"] - 1
        assert 1.0 <= arm["tau"] <= result["block_size"]
        assert arm["tau_low"] <= arm["tau"] <= arm["tau_high"]
        assert arm["steps"] > 0
        assert set(arm["workloads"]) == WORKLOADS
        assert arm["tokens_per_second"] > 0
        ratio = arm["tokens_per_second"] / none["tokens_per_second"]
        assert arm["speedup"] == pytest.approx(ratio)
    (pair,) = result["paired"]
    assert (pair["a"], pair["b"]) == ("dpace", "dflash")
    assert pair["tau_ratio"] == pytest.approx(drafters[1]["tau"] / drafters[0]["tau"])
    assert pair["low"] <= pair["tau_ratio"] <= pair["high"]


@pytest.mark.timeout(900)
def test_the_printed_report_is_plain_text_within_80_columns(finished):
    done, _ = finished
    assert "\x1b" not in done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "Lossless: speculation changed no token of any answer." in done.stdout


@pytest.mark.timeout(900)
def test_no_server_is_left_behind(finished, port):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    lines = [_command_line(folder) for folder in Path("/proc").glob("[0-9]*")]
    assert not [line for line in lines if f"port={port}" in line]


def _command_line(folder):
    try:
        return (folder / "cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""  # ended while we looked
