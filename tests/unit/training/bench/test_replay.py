import json
import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_replay_of_stored_hidden_states_is_twenty_times_faster_than_decoding(tmp_path):
    result = tmp_path / "result.json"
    # In a process of its own: here every call's shapes are checked, which takes time too.
    command = [sys.executable, "-m", "dpace_training.bench.replay", "--json", result]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    timing = json.loads(result.read_text())
    # Both count the same steps, or there would be no result.
    assert timing["steps"] > timing["prompts"] == 32
    assert timing["ratio_stored"] >= 20
    seconds = timing["read_seconds"] + timing["replay_seconds"]
    assert timing["ratio_reading_anew"] == pytest.approx(timing["decode_seconds"] / seconds)
