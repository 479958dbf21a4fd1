"""Writes the rules as a PrometheusRule, the form in which the Prometheus operator takes them.

python deploy/prometheus/prometheus_rule.py        # after a change of rules/*.yml
"""

import sys
from pathlib import Path

RULES = Path(__file__).parent / "rules"
FILES = ("recording.yml", "break_even.yml", "alerts.yml")
FOLDER = Path(__file__).parents[1] / "k8s" / "components" / "monitoring"

HEAD = """\
# Written by deploy/prometheus/prometheus_rule.py from deploy/prometheus/rules. Do not edit.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: dpace-serve
  labels:
    release: kube-prometheus-stack    # what your Prometheus selects by
spec:
  groups:
"""


def prometheus_rule() -> str:
    """The groups of all rule files, in the order in which they build on each other."""
    return HEAD + "".join(_groups(RULES / name) for name in FILES)


def _groups(file: Path) -> str:
    _, found, groups = file.read_text(encoding="utf-8").partition("\ngroups:\n")
    if not found:
        raise ValueError(f"{file}: must have a line `groups:`, has none. Correct the file.")
    # Moved to the right as text: comments and block scalars stay as they are.
    return "".join(f"  {line}" if line.strip() else line for line in groups.splitlines(True))


def main(folder: Path) -> None:
    """Write the file into a folder."""
    (folder / "prometheus-rule.yaml").write_text(prometheus_rule(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
