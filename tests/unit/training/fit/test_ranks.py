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
    "divided by weights, joint term by blocks": {
        "loss": {"recipe": "left_to_right", "reduction": "weight_sum"},
        "fit": {"sharding": "fsdp2", "micro_batch_size": 1},
    },
    "per token": {"loss": {"reduction": "token"}, "fit": {"sharding": "fsdp2"}},
    "soft labels": {"loss": {"recipe": "lk"}},
    "recomputed": {"fit": {"sharding": "fsdp2", "recompute_layers": True}},
    "packed": {"fit": {"sharding": "fsdp2", "pack_tokens": 100}},
    "specialists": {"drafter": {"specialists": {"kind": "last_layer", "group_size": 2}}},
    "sharded specialists": {
        "drafter": {"specialists": {"kind": "last_layer", "group_size": 2}},
        "fit": {"sharding": "fsdp2", "recompute_layers": True},
    },
    "muon": {"fit": {"optimizer": "muon"}},
    "sharded muon": {"fit": {"optimizer": "muon", "sharding": "fsdp2"}},
}
MUON = ("muon", "sharded muon")
RESUMED = ("plain", "sharded", *MUON)
# Ten documents in steps of three: the last step of an epoch has one, so one rank has none.
STEPS, CUT = 6, 3


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

    def plan(name, output, legs):
        change = RUNS[name]
        settings = {
            "loss": change.get("loss", {}),
            "fit": fit | change.get("fit", {}),
            "drafter": base["drafter"] | change.get("drafter", {}),
        }
        return {"legs": legs, "config": {**base, **settings, "output": str(folder / output)}}

    def in_one(plans):
        return runpy.run_path(str(SCRIPT))["train_runs"](plans, Ranks())

    first, rest = [CUT], [STEPS - CUT]
    one = in_one({name: plan(name, f"{name}-1", [STEPS]) for name in RUNS})
    one |= in_one({f"{name}, cut": plan(name, f"{name}-from-1", first) for name in RESUMED})
    two = launch(
        {name: plan(name, f"{name}-2", [STEPS]) for name in RUNS}
        | {f"{name}, rest": plan(name, f"{name}-from-1", rest) for name in RESUMED}
        | {f"{name}, cut": plan(name, f"{name}-from-2", first) for name in RESUMED}
        | {f"{name}, in legs": plan(name, f"{name}-legs", first + rest) for name in RESUMED},
        folder,
    )
    one |= in_one({f"{name}, rest": plan(name, f"{name}-from-2", rest) for name in RESUMED})
    return one, two


@pytest.mark.parametrize("name", [name for name in RUNS if name not in MUON])
def test_two_processes_take_the_steps_of_one(both, name):
    one, two = both
    assert (one[name]["size"], two[name]["size"]) == (1, 2)
    assert two[name]["loss"] == pytest.approx(one[name]["loss"], rel=1e-5)
    assert two[name]["gradient_norm"] == pytest.approx(one[name]["gradient_norm"], rel=1e-4)
    assert two[name]["blocks"] == one[name]["blocks"]
    for weight, total in one[name]["weights"].items():
        assert two[name]["weights"][weight] == pytest.approx(total, rel=1e-4, abs=1e-3), weight


@pytest.mark.parametrize("name", MUON)
def test_muon_does_the_same_up_to_its_bfloat16_iteration(both, name):
    one, two = both
    assert two[name]["loss"] == pytest.approx(one[name]["loss"], rel=1e-2)
    assert two[name]["loss"][0] == pytest.approx(one[name]["loss"][0], rel=1e-6)
    # The tolerance is narrow enough to tell Muon from AdamW.
    assert one["plain"]["loss"] != pytest.approx(one[name]["loss"], rel=1e-2)


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("goes_on_with", ["one process", "two processes"])
def test_a_run_goes_on_with_another_number_of_processes(both, name, goes_on_with):
    one, two = both
    rest = (one if goes_on_with == "one process" else two)[f"{name}, rest"]
    assert rest["step"] == STEPS
    whole = one[name]["loss"]
    assert rest["loss"] == pytest.approx(whole[CUT:], rel=1e-2 if name in MUON else 1e-5)


@pytest.mark.parametrize("name", RESUMED)
def test_the_same_number_of_processes_goes_on_bit_equal(both, name):
    _, two = both
    assert two[f"{name}, in legs"]["step"] == STEPS
    assert two[f"{name}, in legs"]["loss"] == two[name]["loss"]
    assert two[f"{name}, in legs"]["weights"] == two[name]["weights"]
