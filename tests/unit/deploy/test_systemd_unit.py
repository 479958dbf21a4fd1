"""The systemd unit: what systemd itself says of it, and that it agrees with the server."""

import os
import re
import shlex
import shutil
import stat
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

from dpace_serve.config import load_config
from dpace_serve.errors import ConfigError
from dpace_serve.key_file import read_keys
from dpace_serve.serve_config import ServeConfig

DEPLOY = Path(__file__).parents[3] / "deploy"
UNIT = DEPLOY / "systemd" / "dpace-serve.service"
GPU = DEPLOY / "systemd" / "gpu.conf"
CONFIG = DEPLOY / "serve" / "systemd.yaml"
TEXT = UNIT.read_text(encoding="utf-8")
MAX_EXPOSURE_TENTHS = 17
SERVICE_USER = 10001

WANTED = {
    "NoNewPrivileges": "yes",
    "DynamicUser": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "CapabilityBoundingSet": "",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX AF_NETLINK",
    "MemoryDenyWriteExecute": "no",
    "Restart": "on-failure",
    "KillMode": "mixed",
    "KillSignal": "SIGTERM",
    "UMask": "0077",
}


def settings(text: str) -> dict[str, list[str]]:
    lines = [line for line in text.replace("\\\n", "").splitlines() if "=" in line]
    found: dict[str, list[str]] = {}
    for line in lines:
        if not line.startswith("#"):
            name, value = line.split("=", 1)
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def verified(tmp_path):
    """What `systemd-analyze verify` says of a unit, in a tree with the command that it starts."""
    if shutil.which("systemd-analyze") is None or not Path("/lib/systemd/system").is_dir():
        pytest.skip("systemd is not installed")
    shutil.copytree("/lib/systemd/system", tmp_path / "lib/systemd/system", symlinks=True)
    command = tmp_path / "opt/dpace/bin/dpace"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\n", encoding="utf-8")
    command.chmod(0o755)
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)

    def verify(text: str, dropped_in: str | None = None) -> str:
        (units / UNIT.name).write_text(text, encoding="utf-8")
        if dropped_in is not None:
            (units / f"{UNIT.name}.d").mkdir()
            (units / f"{UNIT.name}.d" / "gpu.conf").write_text(dropped_in, encoding="utf-8")
        command = ["systemd-analyze", f"--root={tmp_path}", "verify", UNIT.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr + (f"exit {done.returncode}" if done.returncode else "")

    return verify


def test_systemd_has_nothing_to_say(verified):
    assert verified(TEXT) == ""


def test_nor_with_a_graphics_card(verified):
    assert verified(TEXT, GPU.read_text(encoding="utf-8")) == ""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("ProtectHome=yes", "ProtectHomes=yes"),
        ("KillMode=mixed", "KillMode=mix"),
        ("/opt/dpace/bin/dpace serve", "/opt/dpace/bin/dpac serve"),
        ("@system-service", "@system-services"),
    ],
)
def test_systemd_finds_a_mistake(verified, right, wrong):
    assert right in TEXT
    assert verified(TEXT.replace(right, wrong)) != ""


def exposure(text: str, folder: Path) -> subprocess.CompletedProcess:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    unit = folder / UNIT.name
    unit.write_text(text, encoding="utf-8")
    limit = f"--threshold={MAX_EXPOSURE_TENTHS}"
    command = ["systemd-analyze", "security", "--offline=yes", limit, unit]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_its_exposure_is_low(tmp_path):
    done = exposure(TEXT, tmp_path)
    assert done.returncode == 0, done.stdout[-200:]


@pytest.mark.parametrize("without", ["DynamicUser=yes\n", "CapabilityBoundingSet=\n",
                                     "SystemCallFilter=@system-service\n"])  # fmt: skip
def test_without_its_walls_it_is_not(tmp_path, without):
    assert without in TEXT
    assert exposure(TEXT.replace(without, ""), tmp_path).returncode != 0


def test_it_is_hardened_and_stops_in_order():
    found = settings(TEXT)
    assert {name: found[name][-1] for name in WANTED} == WANTED
    config = load_config(ServeConfig, CONFIG, [])
    assert int(found["TimeoutStopSec"][0]) > config.shutdown_timeout_seconds


def test_the_command_is_one_that_the_server_takes():
    found = settings(TEXT)
    program, command, *arguments = shlex.split(found["ExecStart"][0])
    assert (program, command) == ("/opt/dpace/bin/dpace", "serve")
    assert arguments[:2] == ["--config", "/etc/dpace/serve.yaml"]
    flags, overrides = arguments[2::2], arguments[3::2]
    assert set(flags) == {"--set"}
    credentials = {one.split(":")[0] for one in found["LoadCredential"]}
    config = load_config(ServeConfig, CONFIG, [one.replace("%d", "/run/d") for one in overrides])
    files = [config.api_key_file, config.admin_key_file, config.metrics_key_file]
    assert {file.name for file in files} == credentials
    assert {file.parent for file in files} == {Path("/run/d")}


def test_all_that_is_written_lies_in_its_own_folders():
    found = settings(TEXT)
    assert (found["CacheDirectory"], found["StateDirectory"]) == (["dpace"], ["dpace"])
    variables = dict(word.split("=", 1) for line in found["Environment"] for word in line.split())
    paths = {value for value in variables.values() if "/" in value}
    assert len(paths) >= 6
    assert all(path == "%C/dpace" or path.startswith("%C/dpace/") for path in paths)
    config = load_config(ServeConfig, CONFIG, [])
    assert config.acceptance_log.path.is_relative_to("/var/lib/dpace")


def test_a_graphics_card_opens_its_devices_and_nothing_else():
    found = settings(GPU.read_text(encoding="utf-8"))
    assert found["DevicePolicy"] == ["closed"]
    assert found["DeviceAllow"] == ["char-nvidia* rw"]
    assert found["PrivateDevices"] == ["no"]
    weaker = found.keys() & WANTED.keys()
    assert weaker == {"PrivateDevices"}


def test_a_credential_can_be_read_as_a_key_file():
    # systemd leaves it with root, mode 0400, and lets the service's user read it by a further entry
    # of its list of access (src/core/execute.c of 252, fd_add_acl), which makes the mode look 0440.
    if os.geteuid() != 0:
        pytest.skip("giving a file of root's to another user takes root")
    folder = Path(tempfile.mkdtemp())  # where another user may look
    try:
        folder.chmod(0o755)
        file = folder / "api_keys"
        file.write_text("first-key\nsecond-key\n", encoding="ascii")
        file.chmod(0o400)
        no_id = 0xFFFFFFFF
        entries = [(0x01, 4, no_id), (0x02, 4, SERVICE_USER), (0x04, 0, no_id), (0x10, 4, no_id),
                   (0x20, 0, no_id)]  # fmt: skip
        access = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
        os.setxattr(file, "system.posix_acl_access", access)
        assert stat.S_IMODE(file.stat().st_mode) == 0o440
        assert _read_by(SERVICE_USER, file) == ("first-key", "second-key")
        file.chmod(0o644)
        with pytest.raises(ConfigError, match="0644"):
            _read_by(SERVICE_USER, file)
    finally:
        shutil.rmtree(folder)


def _read_by(user: int, file: Path) -> tuple[str, ...]:
    # The user's rights alone: this process keeps what it has loaded, and can come back.
    os.seteuid(user)
    try:
        return read_keys(file, "an API key")
    finally:
        os.seteuid(0)


def test_the_drop_in_says_where_it_belongs():
    assert re.search(r"dpace-serve\.service\.d/gpu\.conf", GPU.read_text(encoding="utf-8"))
