"""Write all dashboards as JSON.

python deploy/grafana/dashboards.py [FOLDER]
"""

import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

import acceptance
import comparison
import load
import overview
import workloads

BOARDS = {
    "overview": overview.build,
    "acceptance": acceptance.build,
    "comparison": comparison.build,
    "workloads": workloads.build,
    "load": load.build,
}


def main() -> None:
    """Write one file for each board, elsewhere if a folder is given."""
    default = Path(__file__).parent / "dashboards"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    encoder = JSONEncoder(sort_keys=True, indent=2)
    for name, build in BOARDS.items():
        (folder / f"{name}.json").write_text(encoder.encode(build()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
