"""`dpace tune` on the bundled models, small: it measures, chooses, verifies and writes."""

import json
import subprocess
import sys

import pytest

from dpace_serve.demo import bundle
from dpace_serve.drafter import checkpoint
from dpace_serve.vllm_engine.block_schedule import read_schedule

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.bench]

DRAFTER = bundle.drafter_folder("dpace")


def tune(folder, *settings, verify=False):
    command = [
        sys.executable, "-m", "dpace_serve.cli", "tune", str(bundle.target_folder()),
        "--drafter", str(DRAFTER),
        "--prompts", str(bundle.prompts_file()),
        "--output", str(folder / "schedule.json"),
        "--json", str(folder / "result.json"),
        *(["--verify"] if verify else []),
        *(part for one in settings for part in ("--set", one)),
        "--set", "serve.dtype=float32", "--set", "serve.eager=true",
        "--", "--max-model-len", "512", "--max-num-seqs", "4",
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_run_writes_a_schedule_that_its_measurements_lead_to(tmp_path):
    done = tune(
        tmp_path,
        "draft_lengths=[0,3,7]", "batch_sizes=[1,4]", "rounds=2", "prompts_per_round=8",
        "max_new_tokens=48", "min_verified_ratio=0.2",
        verify=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    schedule = read_schedule(tmp_path / "schedule.json")
    assert schedule.revision == checkpoint.revision(DRAFTER)
    assert (schedule.num_draft_tokens, schedule.schedule[-1][1]) == (7, 4)
    result = json.loads((tmp_path / "result.json").read_text())
    rows = {(row["batch_size"], row["num_draft_tokens"]): row for row in result["measured"]}
    assert len(rows) == 6
    # Greedy and float32: the drafts do not depend on how busy the machine is.
    assert rows[1, 0]["tau"] == 1
    assert 1.5 < rows[1, 3]["tau"] < rows[1, 7]["tau"] < 5
    for batch_size in (1, 4):
        best = max(rows[batch_size, length]["tokens_per_second"] for length in (0, 3, 7))
        chosen = rows[batch_size, schedule.length_at(batch_size)]["tokens_per_second"]
        # The bundled drafter is worth its time in small batches.
        assert schedule.length_at(batch_size) > 0
        assert chosen >= 0.9 * best
    assert [one["batch_size"] for one in result["verified"]] == [1, 4]


def test_answers_that_reach_the_drafters_limit_are_refused_in_one_line(tmp_path):
    done = tune(tmp_path, "max_new_tokens=500")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("dpace: ")]
    assert f"{bundle.prompts_file()}:1: a prompt and its answer must fit into 504 tokens" in line
    assert line == done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
