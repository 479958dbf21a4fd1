"""The README tables hold exactly what the committed results say."""

import json
import shutil
from pathlib import Path

import pytest

from dpace_training.demo.tables import RESULTS, TABLES, drafter_table, update_tables

ROOT = Path(__file__).parents[4]


def _copy(tmp_path):
    for document in TABLES:
        (tmp_path / document).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / document, tmp_path / document)
    shutil.copytree(ROOT / RESULTS, tmp_path / RESULTS)
    return tmp_path


def test_the_committed_tables_are_those_of_the_committed_results(tmp_path):
    assert update_tables(_copy(tmp_path)) == []


def test_every_table_in_a_document_has_its_result():
    for document, tables in TABLES.items():
        text = (ROOT / document).read_text(encoding="utf-8")
        for name, (result, _) in tables.items():
            if f"<!-- {name}: from training/results -->" in text:
                assert (ROOT / RESULTS / result).is_file(), result


def test_a_changed_result_changes_the_table(tmp_path):
    root = _copy(tmp_path)
    path = root / RESULTS / "demo-target.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "right_overall": 0.123}))
    assert update_tables(root) == [root / "training/README.md"]
    assert "**12.3 %**" in (root / "training/README.md").read_text()


def test_marks_with_nothing_between_them_are_filled_and_the_rest_stays(tmp_path):
    root = _copy(tmp_path)
    path = root / "training/README.md"
    text = path.read_text()
    head, _, rest = text.partition("<!-- target: from training/results -->\n")
    _, _, tail = rest.partition("<!-- /target -->")
    path.write_text(f"{head}<!-- target: from training/results -->\n<!-- /target -->{tail}")
    update_tables(root)
    assert path.read_text() == text


def test_a_document_without_the_marks_is_an_error(tmp_path):
    root = _copy(tmp_path)
    (root / "README.md").write_text("nothing here")
    with pytest.raises(ValueError, match=r"README\.md must hold"):
        update_tables(root)


def test_the_drafter_table_shows_every_arm_and_pair():
    acceptance = {"tau": 2.5, "tau_low": 2.4, "tau_high": 2.6}
    arms = [{"name": name, **acceptance, "workloads": {"json": acceptance}} for name in ("a", "b")]
    pair = {"a": "b", "b": "a", "tau_ratio": 1.1, "low": 1.05, "high": 1.15}
    table = drafter_table({"prompts": 8, "arms": arms, "paired": [pair]})
    assert "| a | **2.50 [2.40, 2.60]** | 2.50 |" in table
    assert table.endswith("b / a 1.100 [1.050, 1.150].")
