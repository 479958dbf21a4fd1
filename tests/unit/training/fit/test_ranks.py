"""Two processes against one, over gloo: the same losses, gradients and weights."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from dpace_training.fit.ranks import Ranks

SCRIPT = Path(__file__).with_name("train_on_ranks.py")
RUNS = {
    "plain": {},
    "micro batches": {"fit": {"micro_batch_size": 1}},
    "sharded": {"fit": {"sharding": "fsdp2"}},
    "sharded micro batches": {"fit": {"sharding": "fsdp2", "micro_batch_size": 1}},
    "divided by weights": {"loss": {"reduction": "weight_sum"}},
    "per token": {"loss": {"reduction": "token"}, "fit": {"sharding": "fsdp2"}},
    "soft labels": {"loss": {"recipe": "lk"}},
    "recomputed": {"fit": {"sharding": "fsdp2", "recompute_layers": True}},
    "packed": {"fit": {"sharding": "fsdp2", "pack_tokens": 100}},
    "muon": {"fit": {"optimizer": "muon"}},
}
# Ten documents in steps of three: the last step of an epoch has one, so one rank has none.
STEPS = 6


def launch(runs, folder):
    runs_file, result_file = folder / "runs.json", folder / "result.json"
    runs_file.write_text(json.dumps(runs), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(SCRIPT), str(runs_file), str(result_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(result_file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def both(target_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    chats = folder / "chats.jsonl"
    lines = [{"messages": [{"role": "user", "content": f"say {'x' * i} {i}"}]} for i in range(10)]
    chats.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def plans(num_processes):
        base = {
            "target": str(target_folder),
            "data": {
                "conversations": str(chats),
                "work": str(folder / "work"),
                "regenerate": {"max_new_tokens": 16},
            },
            "drafter": {"num_hidden_layers": 2, "block_size": 4, "num_taps": 2},
        }
        fit = {"epochs": 3, "batch_size": 3, "num_anchors": 6, "learning_rate": 3e-3}
        return {
            name: {
                "steps": STEPS,
                "config": {
                    **base,
                    "output": str(folder / f"{name}-{num_processes}"),
                    "loss": change.get("loss", {}),
                    "fit": fit | change.get("fit", {}),
                },
            }
            for name, change in RUNS.items()
        }

    one = runpy.run_path(str(SCRIPT))["train_runs"](plans(1), Ranks())
    # The same folder again: two processes go on where one stopped.
    resumed = plans(1)["plain"] | {"steps": 2}
    return one, launch(plans(2) | {"resumed": resumed}, folder)


@pytest.mark.parametrize("name", [name for name in RUNS if name != "muon"])
def test_two_processes_take_the_steps_of_one(both, name):
    one, two = both
    assert (one[name]["size"], two[name]["size"]) == (1, 2)
    assert two[name]["loss"] == pytest.approx(one[name]["loss"], rel=1e-5)
    assert two[name]["gradient_norm"] == pytest.approx(one[name]["gradient_norm"], rel=1e-4)
    assert two[name]["blocks"] == one[name]["blocks"]
    for weight, total in one[name]["weights"].items():
        assert two[name]["weights"][weight] == pytest.approx(total, rel=1e-4, abs=1e-3), weight


def test_muon_does_the_same_up_to_its_bfloat16_iteration(both):
    one, two = both
    assert two["muon"]["loss"] == pytest.approx(one["muon"]["loss"], rel=1e-2)
    assert two["muon"]["loss"][0] == pytest.approx(one["muon"]["loss"][0], rel=1e-6)


def test_a_run_goes_on_with_another_number_of_processes(both):
    one, two = both
    assert two["resumed"]["step"] == STEPS + 2
    # Where it went on, the drafter was trained already.
    assert two["resumed"]["loss"][0] < one["plain"]["loss"][0]
