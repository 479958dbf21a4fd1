"""CycloneDX lists of what the images install, from their locks: `make sbom`.

python deploy/sbom.py FOLDER [IMAGE ...]
"""

import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMAGES = ("cpu", "cuda", "loadtest")
TOOL_WARNS = "ignore:The Component this BOM is describing:UserWarning"
"""It knows no dependencies of the main component, because a lock names none."""


def main(folder: Path, images: Sequence[str]) -> None:
    """Write FOLDER/IMAGE.cdx.json for each image, checked against the schema."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        file = folder / f"{image}.cdx.json"
        _write(ROOT / "deploy" / "locks" / f"{image}.txt", file)
        sys.stdout.write(f"{file}\n")


def _write(lock: Path, file: Path) -> None:
    command = [sys.executable, "-W", TOOL_WARNS, "-m", "cyclonedx_py", "requirements", str(lock)]
    command += ["--pyproject", str(ROOT / "pyproject.toml"), "--output-format", "JSON"]
    command += ["--output-reproducible", "--validate", "--output-file", str(file)]
    subprocess.run(command, check=True)  # noqa: S603 - our own command line
    bom = json.loads(file.read_text(encoding="utf-8"))
    # pyproject.toml leaves the version to the package, and the tool does not look there.
    ours = bom["metadata"]["component"]
    ours["version"] = _version()
    ours["purl"] = f"pkg:pypi/{ours['name']}@{ours['version']}"
    file.write_text(json.dumps(bom, indent=2) + "\n", encoding="utf-8")


def _version() -> str:
    with (ROOT / "pyproject.toml").open("rb") as opened:
        source = tomllib.load(opened)["tool"]["hatch"]["version"]["path"]
    for line in (ROOT / source).read_text(encoding="utf-8").splitlines():
        if line.startswith("__version__"):
            return line.split('"')[1]
    raise SystemExit(f"{source}: must set __version__.")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or IMAGES)
