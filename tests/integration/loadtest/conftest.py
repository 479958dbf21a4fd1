"""Load tests of the fake server over real sockets and in real processes."""

import json
import socket
from importlib.util import find_spec

import pytest

from dpace_loadtest.bench.fake_process import fake_server
from dpace_loadtest.row_json import read_rows
from dpace_loadtest.run import run
from dpace_loadtest.scenario import ScenarioConfig
from dpace_serve.config import build_config


def pytest_collection_modifyitems(items):
    # Looked for, not imported: an import would patch the sockets of this process.
    if find_spec("locust") is None:
        for item in items:
            if "/integration/loadtest/" in item.path.as_posix():
                item.add_marker(pytest.mark.skip(reason="locust is not installed"))


@pytest.fixture
def server():
    """Run a fake server: `with server("--stall-after", "1") as fake: ...`."""
    return fake_server


@pytest.fixture
def scripted(tmp_path):
    """A workload whose prompts are scripts of the fake server, each asked in turn."""

    def make(*scripts, **settings):
        path = tmp_path / "prompts.jsonl"
        records = [
            script if "messages" in script else {"question": json.dumps(script)}
            for script in scripts
        ]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return {"name": "scripted", "source": "file", "file": str(path), **settings}

    return make


@pytest.fixture
def load(tmp_path):
    """Run a scenario: its record, and its rows in the order of their schedule."""

    def measure(**values):
        scenario = build_config(ScenarioConfig, values, source="test")
        rows_file = tmp_path / "rows.jsonl"
        record = run(scenario, rows_file)
        return record, sorted(read_rows(rows_file), key=lambda row: row.scheduled_seconds)

    return measure


@pytest.fixture
def closed_port():
    """A port that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
