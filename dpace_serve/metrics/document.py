"""Table of all metrics in Markdown, from their one source.

python -m dpace_serve.metrics.document > deploy/prometheus/METRICS.md
"""

import sys

from dpace_serve.metrics.names import METRICS, MetricSpec

HEADER = """\
# Metrics

Written by `python -m dpace_serve.metrics.document > deploy/prometheus/METRICS.md`.

Only events are counted: ratios are left to the query, so everything adds over replicas and time.
Label values come from closed sets. Positions count from 1 (vLLM's own from 0).

| metric | type | labels | meaning |
|---|---|---|---|
"""


def document() -> str:
    """The whole page, in the order of `names.METRICS`."""
    return HEADER + "".join(map(_row, METRICS))


def _row(spec: MetricSpec) -> str:
    labels = ", ".join(f"`{label}`" for label in spec.labels) or "-"
    return f"| `{spec.name}` | {spec.type} | {labels} | {spec.help} |\n"


if __name__ == "__main__":
    sys.stdout.write(document())
