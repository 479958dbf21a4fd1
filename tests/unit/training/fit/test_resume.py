"""What is saved, and what a run that was killed makes of it."""

import json
import re

import pytest
import torch

from dpace_serve.cli import main
from dpace_serve.config import build_config
from dpace_serve.errors import TrainingError
from dpace_training.config import TrainConfig
from dpace_training.data.prepare import prepare
from dpace_training.fit.ranks import Ranks
from dpace_training.fit.resume import saved_states
from dpace_training.fit.trainer import Trainer


@pytest.fixture
def values(target_folder, write_jsonl, tmp_path):
    chats = [{"messages": [{"role": "user", "content": f"say {i}"}]} for i in range(10)]
    return {
        "target": str(target_folder),
        "output": str(tmp_path / "drafter"),
        "data": {
            "conversations": str(write_jsonl("chats.jsonl", chats)),
            "work": str(tmp_path / "work"),
            "regenerate": {"max_new_tokens": 16},
        },
        "drafter": {"num_hidden_layers": 1, "block_size": 4, "num_taps": 2},
        "fit": {"epochs": 4, "batch_size": 4, "num_anchors": 6, "log_every": 1, "save_every": 1},
    }


def build(values, **fit):
    return build_config(TrainConfig, values | {"fit": values["fit"] | fit}, source="the test")


def fresh(config):
    return Trainer(config, prepare(config), Ranks())


def steps_of(states):
    return [int(path.stem.removeprefix("step-")) for path in states]


def test_only_the_newest_states_are_kept(values):
    config = build(values, keep_last=2)
    trainer = fresh(config)
    for _ in range(4):
        trainer.train_step()
        trainer.save()
    assert steps_of(saved_states(config.output)) == [3, 4]
    # How many are kept changes nothing that is computed, so it may change in between.
    assert fresh(build(values, keep_last=1)).step == 4


def test_a_half_written_state_is_never_picked_up(values):
    config = build(values)
    trainer = fresh(config)
    trainer.train_step()
    trainer.save()
    (state,) = saved_states(config.output)
    state.with_name("step-00000002.tmp").write_bytes(state.read_bytes()[:1000])
    assert fresh(config).step == 1


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_both_optimizers_go_on_bit_equal(values, optimizer):
    config = build(values, optimizer=optimizer)
    whole = fresh(config)
    for _ in range(3):
        whole.train_step()
    whole.save()
    expected = [whole.train_step().loss for _ in range(3)]
    resumed = fresh(config)
    assert [resumed.train_step().loss for _ in range(3)] == expected


def test_muon_moves_matrices_and_vectors(values):
    trainer = fresh(build(values, optimizer="muon", warmup_ratio=0))
    before = {name: p.clone() for name, p in trainer.drafter.named_parameters()}
    trainer.train_step()
    for name, parameter in trainer.drafter.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_documents(values):
    config = build(values)
    trainer = fresh(config)
    trainer.train_step()
    trainer.save()
    with torch.no_grad():
        trainer.drafter.fc.weight[0, 0] = torch.nan
    before = {name: p.clone() for name, p in trainer.drafter.named_parameters()}
    with pytest.raises(TrainingError, match=r"step 2: loss nan, .*documents are \[\d+(, \d+)*\]"):
        trainer.train_step()
    for name, parameter in trainer.drafter.named_parameters():
        torch.testing.assert_close(parameter, before[name], equal_nan=True, rtol=0, atol=0)
    assert fresh(config).step == 1


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_moves_a_weight(values):
    trainer = fresh(build(values))
    trainer.train_step()
    before = {name: p.clone() for name, p in trainer.drafter.named_parameters()}
    trainer.drafter.fc.weight.register_hook(lambda gradient: gradient / 0)
    with pytest.raises(TrainingError, match=r"loss \d+\.\d+, gradient norm (nan|inf); both must"):
        trainer.train_step()
    assert all(torch.equal(p, before[name]) for name, p in trainer.drafter.named_parameters())
    assert trainer.step == 1


def test_the_command_says_in_one_line_that_a_loss_is_not_finite(values, tmp_path, capsys):
    plan = tmp_path / "plan.yaml"
    # Weights that overflow in the first step; the second finds no finite loss.
    plan.write_text(json.dumps(values | {"fit": values["fit"] | {"learning_rate": 1e38}}))
    with pytest.raises(SystemExit) as status:
        main(["train", str(plan)])
    assert status.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"dpace: step \d+: loss .*both must be finite\. The step's documents are", last)
