import json

import pytest

from dpace_serve.config import build_config
from dpace_training.config import TrainConfig


@pytest.fixture
def settings(target_folder, write_jsonl, tmp_path):
    chats = [
        {
            "messages": [{"role": "user", "content": f"say {index}"}],
            "workload": "json" if index % 2 else "csv",
        }
        for index in range(10)
    ]
    return {
        "target": str(target_folder),
        "output": str(tmp_path / "drafter"),
        "data": {
            "conversations": str(write_jsonl("chats.jsonl", chats)),
            "work": str(tmp_path / "work"),
            "regenerate": {"max_new_tokens": 16},
        },
        "drafter": {"num_hidden_layers": 1, "block_size": 4, "num_taps": 2},
        "fit": {
            "epochs": 3,
            "batch_size": 4,
            "num_anchors": 6,
            "log_every": 2,
            "save_every": 4,
            "learning_rate": 1e-2,
        },
        "evaluation": {"every": 4, "max_new_tokens": 16},
    }


@pytest.fixture
def build(settings):
    def config(**changes):
        values = json.loads(json.dumps(settings))
        for key, value in changes.items():
            *parents, last = key.split("__")
            inner = values
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[last] = value
        return build_config(TrainConfig, values, source="the test")

    return config
