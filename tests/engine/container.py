"""A container without a container engine: namespaces, a read-only root, and no privileges.

What the image would hold is this environment, under its paths; what it would not is hidden.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.deploy.compose_rules import DEPLOY, ROOT, mounts
from tests.unit.deploy.dockerfile_rules import environment, final_stage, the

USER = 10001
NAMESPACES = ["unshare", "--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child"]
BARE = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups",
        "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]  # fmt: skip
# Of the host, not of the image.
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++")
SHELL = """set -eu
bind() { mount --bind "$1" "$2"; mount -o remount,bind,ro "$2"; }
mount -t tmpfs -o mode=755 root "$R"
for name in bin sbin lib lib64; do ln -s "usr/$name" "$R/$name"; done
mkdir -p "$R/proc" "$R/sys" "$R/dev" "$R/etc" "$R/opt/dpace"
for folder in $SEEN; do mkdir -p "$R$folder"; bind "$folder" "$R$folder"; done
for name in null zero random urandom full; do
  : > "$R/dev/$name"; mount --bind "/dev/$name" "$R/dev/$name"
done
for name in $HIDDEN; do
  if [ -e "$R/usr/bin/$name" ]; then mount --bind /dev/null "$(readlink -f "$R/usr/bin/$name")"; fi
done
mount -t proc proc "$R/proc"
bind /sys "$R/sys"
cp /etc/ld.so.cache "$R/etc"
echo '127.0.0.1 localhost server' > "$R/etc/hosts"
for name in bin lib pyvenv.cfg; do ln -s "$VENV/$name" "$R/opt/dpace/$name"; done
cp "$HEALTH" "$R/opt/dpace/health.py"
chmod 644 "$R/opt/dpace/health.py"
"""


@dataclass(frozen=True)
class Container:
    """A running container: its first process, as the host numbers it."""

    process: subprocess.Popen
    log: Path
    environment: dict[str, str]

    @property
    def first(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while not (found := children.read_text().split()):
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.01)
        return int(found[0])

    def run(self, *command: str) -> subprocess.CompletedProcess:
        """Run a command inside, as `docker exec` does."""
        inside = ["nsenter", f"--target={self.first}", "--mount", "--net", "--pid", "--root"]
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        whole = [*inside, *BARE, "env", "-i", *variables, *command]
        return subprocess.run(whole, capture_output=True, text=True, timeout=60, check=False)

    def stop(self) -> None:
        """Kill whatever still runs: the first process, and with it its whole namespace."""
        # Ending `unshare` is not enough: a process that has changed its user outlives its parent.
        if self.process.poll() is None:
            os.kill(self.first, signal.SIGKILL)
        self.process.wait(30)

    def wait_until_healthy(self, check: list[str], timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while self.run(*check).returncode != 0:
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            assert time.monotonic() < deadline, self.log.read_text()[-4000:]
            time.sleep(1)


def require_namespaces() -> None:
    """Skip where no container can be imitated."""
    missing = [name for name in ("unshare", "nsenter", "setpriv", "ip") if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        pytest.skip("imitating a container takes root, util-linux and iproute2")
    if subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets root make no namespaces")


def start(dockerfile: Path, service: dict, keys: Path, folder: Path) -> Container:
    """Run the entry point and command of an image, mounted and limited as a service is."""
    text = dockerfile.read_text(encoding="utf-8")
    stage = final_stage(text)
    assert the("USER", stage).words == f"{USER}:{USER}"
    variables = environment(text) | {"PATH": "/opt/dpace/bin:/usr/bin:/bin"}
    if "PYTHONPATH" in os.environ:
        variables["PYTHONPATH"] = os.environ["PYTHONPATH"]
    command = [*the("ENTRYPOINT", stage).array(), *the("CMD", stage).array()]
    words = [f"{name}={value}" for name, value in variables.items()]
    script = SHELL + _mounting(service, keys) + 'ip link set lo up\nmount -o remount,ro "$R"\n'
    script += 'exec chroot "$R" "$@"\n'
    root = folder / "root"
    root.mkdir()
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*NAMESPACES, "sh", "-c", script, "sh", *BARE, "env", "-i", *words, *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={
                "PATH": os.environ["PATH"],
                "R": str(root),
                "SEEN": " ".join(_seen()),
                "HIDDEN": " ".join(COMPILERS),
                "VENV": sys.prefix,
                "HEALTH": str(DEPLOY / "docker" / "health.py"),
            },
        )
    return Container(process, log, variables)


def _seen() -> list[str]:
    """Folders that stand for what is installed in an image."""
    python_path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    wanted = {Path("/usr"), ROOT, Path(sys.prefix), Path(sys.base_prefix)}
    wanted |= {Path(entry) for entry in [*sys.path, *python_path] if Path(entry).is_dir()}
    outer = [one for one in wanted if not any(one.is_relative_to(o) for o in wanted - {one})]
    return sorted(map(str, outer))


def _mounting(service: dict, keys: Path) -> str:
    lines = []
    for target, source in mounts(service).items():
        if source is None:
            # As Docker mounts one: nothing in it can be run or mapped as code.
            options = "mode=1777,noexec,nosuid,nodev"
            lines.append(f'mkdir -p "$R{target}"; mount -t tmpfs -o {options} none "$R{target}"')
            continue
        lines.append(_bound((DEPLOY / source).resolve(), target))
    lines += [_bound(keys / name, f"/run/secrets/{name}") for name in service["secrets"]]
    size = service["shm_size"]
    lines.append(f'mkdir "$R/dev/shm"; mount -t tmpfs -o mode=1777,size={size} shm "$R/dev/shm"')
    lines.append('mkdir -p "$R/var/lib/dpace"')
    return "\n".join(lines) + "\n"


def _bound(source: Path, target: str) -> str:
    make = (
        f'mkdir -p "$R{target}"'
        if source.is_dir()
        else f'mkdir -p "$R{Path(target).parent}"; : > "$R{target}"'
    )
    return f'{make}; bind "{source}" "$R{target}"'
