"""Runs that are killed at any moment of their life end as one that was left alone."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("train_until_killed.py")
SEED = 20261123
ANSWERED_OR_OLD = re.compile(r"work/\w+\.partial|drafter/resume/step-\d+\.safetensors")


@pytest.fixture
def values(target_folder, write_jsonl, tmp_path):
    def chats(name, count):
        lines = [{"messages": [{"role": "user", "content": f"{name} {i}"}]} for i in range(count)]
        return str(write_jsonl(f"{name}.jsonl", lines))

    run = tmp_path / "run"
    return {
        "target": str(target_folder),
        "output": str(run / "drafter"),
        "data": {
            "conversations": chats("say", 10),
            "work": str(run / "work"),
            "regenerate": {"max_new_tokens": 12, "batch_size": 4},
        },
        "drafter": {"num_hidden_layers": 1, "block_size": 4, "num_taps": 2},
        "fit": {"epochs": 3, "batch_size": 4, "num_anchors": 6, "log_every": 1, "save_every": 2},
        "evaluation": {"conversations": chats("tell", 3), "every": 2, "max_new_tokens": 12},
    }


@pytest.fixture
def kill(values, tmp_path):
    def run(**kills):
        plan, result = tmp_path / "plan.json", tmp_path / "result.json"
        folder = str(tmp_path / "run")
        plan.write_text(json.dumps({"config": values, "folder": folder, **kills}), "utf-8")
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(plan), str(result)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (kills, done.stderr[-4000:])
        trials = json.loads(result.read_text(encoding="utf-8"))
        assert [trial for trial in trials if trial["differs"]] == []
        # A process that dies right before it deletes a file leaves it; nobody reads these again.
        left_over = {name for trial in trials for name in trial["left_over"]}
        assert [name for name in left_over if not ANSWERED_OR_OLD.fullmatch(name)] == []
        return trials

    return run


def test_a_run_killed_among_its_steps_ends_as_if_it_had_not_been(kill):
    (trial,) = kill(changes=[[30]])
    assert trial["killed"] == [True]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_killed_at_many_random_moments_ends_as_if_it_had_not_been(kill):
    rng = random.Random(SEED)
    # Two in a row; as shares of the time that a run takes when it is left alone.
    trials = kill(shares=[[rng.random(), rng.random()] for _ in range(15)])
    assert sum(trial["killed"][0] for trial in trials) > 7, trials


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_killed_before_any_of_its_writes_ends_as_if_it_had_not_been(kill):
    trials = kill(every=1)
    assert len(trials) > 30
    assert all(trial["killed"] == [True] for trial in trials)


def launch(file):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "dpace_serve.cli", "train", str(file)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def ranks_of(launcher):
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return [int(child) for child in children]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_of_which_one_is_killed_go_on_as_if_it_had_not_been(values, tmp_path):
    values["fit"] |= {"epochs": 30}
    found = {}
    for name in ("whole", "killed"):
        file, output = tmp_path / f"{name}.yaml", tmp_path / "run" / name / "drafter"
        file.write_text(json.dumps(values | {"output": str(output)}), "utf-8")
        if name == "killed":
            launcher = launch(file)
            while launcher.poll() is None and not list(output.glob("resume/step-0000001*.safet*")):
                time.sleep(0.01)
            os.kill(ranks_of(launcher)[-1], signal.SIGKILL)
            _, said = launcher.communicate()
            assert launcher.returncode != 0, said
            assert not (output / "training.json").exists()
        launcher = launch(file)
        _, said = launcher.communicate()
        assert launcher.returncode == 0, said[-4000:]
        wanted = ("model.safetensors", "log.jsonl", "training.json")
        found[name] = [(output / file_name).read_bytes() for file_name in wanted]
    assert found["killed"] == found["whole"]
