"""make secrets: for their user alone, never twice the same, never over a key that is there."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"


@pytest.fixture
def made(tmp_path):
    make(tmp_path)
    return tmp_path


def make(folder: Path) -> None:
    # With a mask that takes nothing away.
    command = ["sh", "-c", 'umask 0; exec "$0" "$@"', sys.executable, DEPLOY / "make_secrets.py"]
    subprocess.run([*command, folder], check=True, capture_output=True)


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text(encoding="ascii") for file in folder.iterdir()}


def test_every_key_can_be_read_by_its_owner_alone(made):
    files = [*(made / "secrets").iterdir(), made / ".env"]
    assert len(files) == 7
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    folders = [made / "secrets", made / "data", *(made / "data").iterdir()]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


def test_the_owner_is_whom_the_containers_run_as(made):
    owner = dict(line.split("=") for line in (made / ".env").read_text().split())
    assert owner.keys() == {"DPACE_UID", "DPACE_GID"}
    for path in [*(made / "secrets").iterdir(), *(made / "data").iterdir()]:
        status = path.stat()
        assert (status.st_uid, status.st_gid) == (int(owner["DPACE_UID"]), int(owner["DPACE_GID"]))
    assert owner["DPACE_UID"] == str(os.geteuid() or 10001)


def test_a_key_has_256_random_bits_and_no_two_are_alike(made, tmp_path_factory):
    keys = contents(made / "secrets")
    other = tmp_path_factory.mktemp("other")
    make(other)
    alone = [*keys.items(), *contents(other / "secrets").items()]
    found = [text for name, text in alone if name != "api_keys"]
    assert len(set(found)) == 10
    assert all(re.fullmatch(r"[0-9a-f]{64}\n", text) for text in found)


def test_the_server_takes_the_keys_of_clients_and_no_other(made):
    keys = contents(made / "secrets")
    assert keys["api_keys"] == keys["client_key"] + keys["loadtest_key"]


def test_keys_that_are_there_stay_and_a_deleted_one_is_new(made):
    before = contents(made / "secrets")
    (made / "secrets" / "client_key").unlink()
    make(made)
    after = contents(made / "secrets")
    assert after["client_key"] != before["client_key"]
    assert after["api_keys"] == after["client_key"] + before["loadtest_key"]
    kept = before.keys() - {"client_key", "api_keys"}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


def test_they_are_all_that_compose_asks_for(made):
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    asked = {entry["file"] for entry in yaml.safe_load(text)["secrets"].values()}
    assert asked == {f"./secrets/{name}" for name in contents(made / "secrets")} - {
        "./secrets/client_key"
    }
    used = set(re.findall(r"- \./data/(\w+):", text))
    assert used == {folder.name for folder in (made / "data").iterdir()}


def test_git_never_takes_them():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git")
    written = ["deploy/secrets/api_keys", "deploy/data/prometheus/wal", "deploy/.env"]
    command = ["git", "check-ignore", *written]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == written
