"""The committed table of metrics is what the specifications say."""

from pathlib import Path

from dpace_serve.metrics import names
from dpace_serve.metrics.document import document

COMMITTED = Path(__file__).parents[3] / "deploy" / "prometheus" / "METRICS.md"


def test_the_committed_table_is_up_to_date():
    assert COMMITTED.read_text(encoding="utf-8") == document()


def test_a_row_names_type_labels_and_meaning():
    rows = [line for line in document().splitlines() if line.startswith("| `dpace_split_share` |")]
    assert rows == [f"| `dpace_split_share` | gauge | `arm` | {names.SPLIT_SHARE.help} |"]


def test_no_help_text_breaks_the_table():
    assert not any("|" in spec.help or "\n" in spec.help for spec in names.METRICS)
