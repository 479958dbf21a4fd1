"""Known vulnerabilities of what the images install: `make audit`.

Exit status 0: every lock was looked up whole, and whatever is known is accepted in audit.toml.
1: something else is known. 2: it could not be looked up, so nothing is known either way.
"""

import argparse
import datetime
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEPLOY = Path(__file__).parent
FOUND, UNKNOWN = 1, 2
LOCAL_BUILD = re.compile(r"^([\w.-]+==[^ +]+)\+\w+", re.MULTILINE)
"""A pin of a build such as 2.13.0+cpu, which no advisory names: 2.13.0 is what is looked up."""


class AuditError(Exception):
    """A lock could not be looked up, or audit.toml says what it may not."""


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """One advisory about one locked package."""

    package: str
    version: str
    names: frozenset[str]
    """Its id and its other ids."""
    fixed_in: tuple[str, ...]

    def line(self) -> str:
        """What is read on the terminal."""
        cure = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no release fixes it"
        return f"{self.package} {self.version}: {', '.join(sorted(self.names))}, {cure}"


@dataclass(frozen=True, slots=True)
class Accepted:
    """An advisory that is lived with until a day."""

    id: str
    package: str
    reason: str
    until: datetime.date

    def covers(self, vulnerability: Vulnerability, today: datetime.date) -> bool:
        """Whether it is about this one, today."""
        is_same = self.id in vulnerability.names and self.package == vulnerability.package
        return is_same and today <= self.until


def read_accepted(file: Path) -> list[Accepted]:
    """What audit.toml accepts.

    Raises:
        AuditError: If an entry lacks its id, package, reason or day.
    """
    with file.open("rb") as opened:
        entries = tomllib.load(opened).get("accepted", [])
    accepted = []
    for entry in entries:
        if set(entry) != {"id", "package", "reason", "until"} or not str(entry["reason"]).strip():
            raise AuditError(f"{file}: {entry} must have id, package, reason and until. Add them.")
        if type(entry["until"]) is not datetime.date:
            raise AuditError(f"{file}: until of {entry['id']} must be a day, as 2027-01-31.")
        accepted.append(Accepted(**entry))
    return accepted


def vulnerabilities(report: Mapping[str, Any]) -> list[Vulnerability]:
    """What a report of pip-audit says.

    Raises:
        AuditError: If a package was left out: that it has none is then not known.
    """
    dependencies = report["dependencies"]
    skipped = [one["name"] for one in dependencies if "skip_reason" in one]
    if skipped or not dependencies:
        raise AuditError(
            f"{len(skipped)} of {len(dependencies)} packages could not be looked up: "
            f"{', '.join(skipped[:5])}{' ...' if len(skipped) > 5 else ''}. "
            "Run it where the source of advisories can be reached."
        )
    return [
        Vulnerability(
            one["name"],
            one["version"],
            frozenset({known["id"], *known.get("aliases", [])}),
            tuple(known.get("fix_versions", [])),
        )
        for one in dependencies
        for known in one["vulns"]
    ]


def look_up(lock: Path, source: list[str]) -> dict[str, Any]:
    """The report of pip-audit about one lock.

    Args:
        lock: Pinned packages with hashes.
        source: Arguments of pip-audit that name the source of advisories.

    Raises:
        AuditError: If the source cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="dpace-audit-") as folder:
        pins = Path(folder) / lock.name
        pins.write_text(_pins_alone(lock.read_text(encoding="utf-8")), encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(pins), "--no-deps"]
        command += ["--disable-pip", "--format", "json", "--progress-spinner", "off", *source]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise AuditError(f"{lock.name} could not be looked up: {reason}") from None
    return report


def _pins_alone(text: str) -> str:
    # Without hashes: those are of the +cpu build, and nothing is installed here.
    return "\n".join(re.findall(r"^[\w.-]+==[^ \\]+", LOCAL_BUILD.sub(r"\1", text), re.MULTILINE))


def audit(locks: Iterable[Path], source: list[str], accepted: list[Accepted]) -> int:
    """Exit status of the command, after a line for each finding."""
    today = datetime.datetime.now(tz=datetime.UTC).date()
    status = 0
    for lock in locks:
        try:
            found = vulnerabilities(look_up(lock, source))
        except AuditError as error:
            sys.stderr.write(f"{error}\n")
            return UNKNOWN
        for one in found:
            reasons = [entry.reason for entry in accepted if entry.covers(one, today)]
            sys.stdout.write(f"{lock.name}: {one.line()}: {reasons[0] if reasons else 'NEW'}\n")
            status = status if reasons else FOUND
        sys.stdout.write(f"{lock.name}: {len(found)} known vulnerabilities\n")
    return status


def main() -> int:
    """Look up all locks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--osv-url", metavar="URL", help="ask this OSV service in place of PyPI")
    parser.add_argument("--accepted", type=Path, default=DEPLOY / "audit.toml", metavar="FILE")
    parser.add_argument("locks", nargs="*", type=Path, help="none: all in deploy/locks")
    given = parser.parse_args()
    source = ["--vulnerability-service", "osv", "--osv-url", given.osv_url] if given.osv_url else []
    locks = given.locks or sorted((DEPLOY / "locks").glob("*.txt"))
    try:
        return audit(locks, source, read_accepted(given.accepted))
    except AuditError as error:
        sys.stderr.write(f"{error}\n")
        return UNKNOWN


if __name__ == "__main__":
    sys.exit(main())
