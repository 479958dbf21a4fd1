import json

import pytest

from dpace_training.bench import replay


@pytest.mark.slow
def test_the_replay_of_stored_hidden_states_is_twenty_times_faster_than_decoding(tmp_path):
    result = tmp_path / "result.json"
    replay.main(prompts_per_workload=4, json_file=result)
    timing = json.loads(result.read_text())
    # Both count the same steps, or there would be no result.
    assert timing["steps"] > timing["prompts"] == 32
    assert timing["ratio_stored"] >= 20
    seconds = timing["read_seconds"] + timing["replay_seconds"]
    assert timing["ratio_reading_anew"] == pytest.approx(timing["decode_seconds"] / seconds)
