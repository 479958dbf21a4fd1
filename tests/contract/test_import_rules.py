"""The import rules hold on a clean tree, and each one breaks when it is violated."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# The smallest tree the rules can be read against; only imports matter in it.
CLEAN_TREE = {
    "dpace_serve/__init__.py": "",
    "dpace_serve/errors.py": "",
    "dpace_serve/redaction.py": "",
    "dpace_serve/outside_text.py": "",
    "dpace_serve/settings_yaml.py": "import dpace_serve.outside_text",
    "dpace_serve/command_line.py": "",
    "dpace_serve/config.py": "import dpace_serve.redaction, dpace_serve.settings_yaml",
    "dpace_serve/gate_config.py": "import dpace_serve.config",
    "dpace_serve/key_file.py": "import dpace_serve.errors",
    "dpace_serve/serve_config.py": "import dpace_serve.gate_config",
    "dpace_serve/durable_file.py": "",
    "dpace_serve/one_process.py": "import dpace_serve.errors",
    "dpace_serve/result_file.py": "import dpace_serve.errors",
    "dpace_serve/acceptance/__init__.py": "import dpace_serve.errors",
    "dpace_serve/drafter/__init__.py": "import dpace_serve.config",
    "dpace_serve/metrics/__init__.py": "import dpace_serve.acceptance, prometheus_client",
    "dpace_serve/live/__init__.py": "import dpace_serve.metrics, dpace_serve.drafter",
    "dpace_serve/dashboard/__init__.py": "",
    "dpace_serve/web/__init__.py": "import dpace_serve.live, dpace_serve.dashboard",
    "dpace_serve/gate/__init__.py": "import dpace_serve.web, dpace_serve.key_file",
    "dpace_serve/vllm_engine/__init__.py": "import vllm.config, dpace_serve.live, dpace_serve.gate",
    "dpace_serve/sglang_engine/__init__.py": "import sglang.version, dpace_serve.live, "
    "dpace_serve.gate",
    "dpace_serve/demo/__init__.py": "import dpace_serve.drafter",
    "dpace_serve/tuning/__init__.py": "import dpace_serve.vllm_engine, dpace_serve.demo",
    "dpace_serve/serve_command.py": "import dpace_serve.vllm_engine, dpace_serve.sglang_engine",
    "dpace_serve/cli.py": "import dpace_serve.serve_command, dpace_serve.tuning, "
    "dpace_training.cli, dpace_loadtest.cli",
    "dpace_serve/settings_document.py": "import dpace_serve.tuning, dpace_serve.serve_config",
    "dpace_training/__init__.py": "",
    "dpace_training/cli.py": "import dpace_serve.config, torch",
    "dpace_loadtest/__init__.py": "",
    "dpace_loadtest/cli.py": "import dpace_serve.config",
    "dpace_loadtest/users.py": "import gevent.pool, locust",
}

ON_TOP = "training and load test sit on top of dpace_serve, beside each other"
ONE_WAY = "inside dpace_serve imports point one way"
PLAIN_ACCEPTANCE = "acceptance arithmetic needs no framework"
VLLM_IN_ONE_PLACE = "only dpace_serve.vllm_engine imports vllm"
LOCUST_IN_ONE_FILE = "only dpace_loadtest.users imports locust, which patches sockets"
SGLANG_IN_ONE_PLACE = "only dpace_serve.sglang_engine imports sglang"
EVERY_RULE = {
    ON_TOP,
    ONE_WAY,
    PLAIN_ACCEPTANCE,
    VLLM_IN_ONE_PLACE,
    LOCUST_IN_ONE_FILE,
    SGLANG_IN_ONE_PLACE,
}


def broken_rules(folder: Path, planted: dict[str, str]) -> set[str]:
    for name, source in (CLEAN_TREE | planted).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source + "\n", encoding="utf-8")
    shutil.copy(ROOT / "pyproject.toml", folder)
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    run = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    verdicts = dict(re.findall(r"^(.+?) (KEPT|BROKEN)\b", run.stdout, flags=re.MULTILINE))
    assert set(verdicts) == EVERY_RULE, run.stdout + run.stderr
    broken = {rule for rule, verdict in verdicts.items() if verdict == "BROKEN"}
    assert run.returncode == bool(broken)
    return broken


def test_a_clean_tree_keeps_every_rule(tmp_path):
    assert broken_rules(tmp_path, {}) == set()


@pytest.mark.parametrize(
    ("planted", "rules"),
    [
        ({"dpace_serve/metrics/labels.py": "import dpace_training"}, {ON_TOP}),
        ({"dpace_serve/demo/load.py": "import dpace_loadtest.rows"}, {ON_TOP}),
        ({"dpace_loadtest/prompts.py": "import dpace_training"}, {ON_TOP}),
        ({"dpace_training/bench.py": "import dpace_loadtest.rows"}, {ON_TOP}),
        ({"dpace_serve/drafter/write.py": "import dpace_serve.metrics"}, {ONE_WAY}),
        ({"dpace_serve/drafter/write.py": "import dpace_serve.acceptance"}, {ONE_WAY}),
        ({"dpace_serve/metrics/live.py": "import dpace_serve.live"}, {ONE_WAY}),
        ({"dpace_serve/dashboard/page.py": "import dpace_serve.live"}, {ONE_WAY}),
        ({"dpace_serve/web/routes.py": "import dpace_serve.vllm_engine"}, {ONE_WAY}),
        ({"dpace_serve/web/routes.py": "import dpace_serve.gate"}, {ONE_WAY}),
        ({"dpace_serve/gate/stack.py": "import dpace_serve.vllm_engine"}, {ONE_WAY}),
        ({"dpace_serve/config.py": "import dpace_serve.cli"}, {ONE_WAY}),
        ({"dpace_serve/unplaced.py": ""}, {ONE_WAY}),
        ({"dpace_serve/acceptance/fast.py": "import torch"}, {PLAIN_ACCEPTANCE}),
        ({"dpace_serve/demo/run.py": "from vllm import LLM"}, {VLLM_IN_ONE_PLACE}),
        ({"dpace_serve/sglang_engine/routes.py": "import dpace_serve.vllm_engine"}, {ONE_WAY}),
        ({"dpace_serve/vllm_engine/routes.py": "import dpace_serve.sglang_engine"}, {ONE_WAY}),
        ({"dpace_serve/sglang_engine/run.py": "import vllm.config"}, {VLLM_IN_ONE_PLACE}),
        ({"dpace_serve/vllm_engine/run.py": "import sglang.srt"}, {SGLANG_IN_ONE_PLACE}),
        ({"dpace_serve/live/run.py": "def f():\n    import sglang"}, {SGLANG_IN_ONE_PLACE}),
        ({"dpace_training/data.py": "def f():\n    import vllm.config"}, {VLLM_IN_ONE_PLACE}),
        ({"dpace_loadtest/run.py": "def f():\n    import locust.main"}, {LOCUST_IN_ONE_FILE}),
        ({"dpace_loadtest/stream.py": "import gevent"}, {LOCUST_IN_ONE_FILE}),
        ({"dpace_serve/demo/load.py": "from locust import User"}, {LOCUST_IN_ONE_FILE}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_planted_violation_breaks_its_rule_and_no_other(tmp_path, planted, rules):
    assert broken_rules(tmp_path, planted) == rules
