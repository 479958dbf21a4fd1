"""Run by test_killed_runs.py: one run without interruption, then runs that are killed on the way.

Every life of a run is a fork of this process, which has imported everything and trained nothing:
so a life begins in no time and ends by SIGKILL.
"""

import hashlib
import itertools
import json
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

from dpace_serve.config import build_config
from dpace_training.config import TrainConfig
from dpace_training.fit.run import train

CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.rmtree"}


def live(config, *, seconds=None, changes=None):
    """Train in a child; whether it was killed, after so many seconds or before this change."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if changes is not None:
                kill_before_change(changes)
            train(config)
            status = 0
        except BaseException:  # noqa: BLE001 (a child must not go on as if it were its parent)
            traceback.print_exc()
        os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit("a run that was killed does not go on")
    return os.WIFSIGNALED(status)


def kill_before_change(number):
    """Die before the change of this number, from 1, that the process makes on the disk."""
    left = number

    def see(event, arguments):
        nonlocal left
        is_write = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if is_write or event in CHANGES:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(see)


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def trial(config, folder, whole, moments):
    """One run that is killed at these moments, one after the other, and then left alone."""
    shutil.rmtree(folder)
    were_killed = [live(config, **moment) for moment in moments]
    live(config)
    found = digests(folder)
    return {
        "moments": moments,
        "killed": were_killed,
        "differs": [name for name in whole if whole[name] != found.get(name)],
        "left_over": sorted(found.keys() - whole.keys()),
    }


def trials(plan, config, folder):
    started = time.monotonic()
    live(config)
    life = time.monotonic() - started
    whole = digests(folder)
    for shares in plan.get("shares", []):
        yield trial(config, folder, whole, [{"seconds": life * share} for share in shares])
    for numbers in plan.get("changes", []):
        yield trial(config, folder, whole, [{"changes": number} for number in numbers])
    if "every" in plan:
        for number in itertools.count(1, plan["every"]):
            done = trial(config, folder, whole, [{"changes": number}])
            if done["killed"] == [False]:
                return  # an uninterrupted run makes fewer changes
            yield done


if __name__ == "__main__":
    plan_file, result_file = map(Path, sys.argv[1:])
    plan = json.loads(plan_file.read_text(encoding="utf-8"))
    config = build_config(TrainConfig, plan["config"], source="plan")
    results = list(trials(plan, config, Path(plan["folder"])))
    result_file.write_text(json.dumps(results), encoding="utf-8")
