"""Runs whose drafter has position specialists: every objective, resume, what is written."""

import logging

import pytest
import torch

from dpace_serve.drafter import checkpoint
from dpace_serve.drafter.specialists import Specialists
from dpace_serve.errors import ConfigError
from dpace_training.data.prepare import prepare
from dpace_training.evaluation.compare import load_drafter
from dpace_training.fit.ranks import Ranks
from dpace_training.fit.run import train
from dpace_training.fit.trainer import Trainer
from dpace_training.losses.config import RECIPES

LOW_RANK = {"kind": "low_rank", "group_size": 2, "rank": 3}
LAST_LAYER = {"kind": "last_layer", "group_size": 2}


def fresh(config):
    return Trainer(config, prepare(config), Ranks())


def own(drafter):
    return {name: w for name, w in drafter.named_parameters() if name.startswith("specialists.")}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_objective_trains_the_groups_that_it_looks_at(build, recipe):
    config = build(drafter__specialists=LAST_LAYER, loss={"recipe": recipe}, fit__pack_tokens=64)
    trainer = fresh(config)
    before = {name: weight.detach().clone() for name, weight in own(trainer.drafter).items()}
    trainer.train_step()
    assert before
    for name, weight in own(trainer.drafter).items():
        assert not torch.equal(weight[0], before[name][0]), name
        # Nothing is right yet, so accept until fail ends before position 3, the second group's.
        is_read_by_others = name == "specialists.input_layernorm.weight"
        is_trained = recipe != "auf" or is_read_by_others
        assert torch.equal(weight[1], before[name][1]) != is_trained, name


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("specialists", [LOW_RANK, LAST_LAYER])
def test_a_cut_run_goes_on_bit_equal(build, specialists, optimizer):
    config = build(drafter__specialists=specialists, fit__optimizer=optimizer)
    whole = fresh(config)
    for _ in range(3):
        whole.train_step()
    whole.save()
    expected = [whole.train_step().loss for _ in range(2)]
    resumed = fresh(config)
    assert [resumed.train_step().loss for _ in range(2)] == expected


def test_other_specialists_do_not_go_on_with_a_saved_run(build):
    trainer = fresh(build(drafter__specialists=LOW_RANK))
    trainer.train_step()
    trainer.save()
    with pytest.raises(ConfigError, match=r"differs in drafter\.specialists\.rank"):
        fresh(build(drafter__specialists={**LOW_RANK, "rank": 4}))


def test_the_plain_part_starts_from_the_weights_of_a_plain_run(build):
    plain = fresh(build()).drafter.state_dict()
    adapted = fresh(build(drafter__specialists=LOW_RANK)).drafter.state_dict()
    assert all(torch.equal(adapted[name], weight) for name, weight in plain.items())


def test_a_finished_run_leaves_a_checkpoint_and_says_its_size(build, write_jsonl, caplog):
    held_out = write_jsonl("held.jsonl", [{"messages": [{"role": "user", "content": "tell"}]}])
    config = build(
        drafter__specialists={"kind": "low_rank"},
        fit__epochs=1,
        evaluation__conversations=str(held_out),
    )
    with caplog.at_level(logging.INFO):
        facts = train(config)
    # Two groups of 16 x 32 there and back; 32 is the width of the target.
    assert facts["specialist_parameters"] == 2 * 2 * 16 * 32
    assert "2,048 of them in 2 specialists (low_rank)" in caplog.text
    assert "MB of memory were used" in caplog.text
    assert checkpoint.validate(config.output).specialists == Specialists("low_rank", 2, 16)
    read = load_drafter(config.output)
    assert sum(weight.numel() for weight in read.parameters()) == facts["drafter_parameters"]


def test_a_rank_without_adapters_is_refused(build):
    with pytest.raises(ConfigError, match="kind last_layer has no adapters: drop rank"):
        build(drafter__specialists={**LAST_LAYER, "rank": 4})
