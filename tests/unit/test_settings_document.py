"""The committed tables of settings are what the classes say."""

from pathlib import Path

from dpace_serve import settings_document
from dpace_serve.serve_config import AcceptanceLogConfig, CaptureConfig, ServeConfig, VerdictConfig

COMMITTED = Path(settings_document.__file__).parent / "SETTINGS.md"


def cells():
    rows = [line for line in settings_document.document().splitlines() if line.startswith("| `")]
    assert all(row.count("|") == 5 for row in rows), "a text that breaks its table"
    return {row.split("|")[1].strip(" `"): row for row in rows}


def test_the_committed_tables_are_up_to_date():
    assert COMMITTED.read_text(encoding="utf-8") == settings_document.document()


def test_every_setting_of_the_server_and_its_sections_has_a_row():
    expected = set(ServeConfig.model_fields)
    for section, config in (
        ("acceptance_log", AcceptanceLogConfig),
        ("capture", CaptureConfig),
        ("verdict", VerdictConfig),
    ):
        expected |= {f"{section}.{key}" for key in config.model_fields}
    assert expected <= set(cells())


def test_a_row_has_type_bounds_default_and_meaning():
    rows = cells()
    assert rows["port"] == "| `port` | whole number from 1 to 65535 | `8000` | Port to listen on. |"
    assert rows["capture.workloads"].startswith(
        "| `capture.workloads` | list of text (at least 1) | must be given | Workload labels"
    )
    assert rows["mode"].startswith('| `mode` | `shadow` or `split` | `"shadow"` | ')
    assert rows["capture"].startswith("| `capture` | section or none | off | ")
    assert rows["verdict.step_times"].startswith(
        "| `verdict.step_times` | mapping of names to path | `{}` | "
    )
