"""Starting from another drafter's weights, in each layout, and what does not fit."""

import json
import logging
import shutil

import pytest
import torch

from dpace_serve.config import build_config
from dpace_serve.drafter import checkpoint
from dpace_serve.drafter.exchange import export
from dpace_serve.errors import CheckpointError, ConfigError
from dpace_training.config import TrainConfig
from dpace_training.data.prepare import prepare
from dpace_training.drafter.model import BlockDrafter
from dpace_training.drafter.shape import drafter_config
from dpace_training.evaluation.compare import load_drafter
from dpace_training.fit.ranks import Ranks
from dpace_training.fit.trainer import Trainer


@pytest.fixture
def build(target_folder, write_jsonl, tmp_path):
    chats = [{"messages": [{"role": "user", "content": f"say {index}"}]} for index in range(4)]
    settings = {
        "target": str(target_folder),
        "output": str(tmp_path / "drafter"),
        "data": {
            "conversations": str(write_jsonl("chats.jsonl", chats)),
            "work": str(tmp_path / "work"),
            "regenerate": {"max_new_tokens": 12},
        },
        "drafter": {"num_hidden_layers": 2, "block_size": 4, "num_taps": 2},
        "fit": {"epochs": 2, "batch_size": 4, "num_anchors": 4},
    }

    def config(**drafter):
        values = json.loads(json.dumps(settings))
        values["drafter"] |= drafter
        return build_config(TrainConfig, values, source="the test")

    return config


@pytest.fixture
def source(build, target, tmp_path):
    """A bfloat16 drafter in the z-lab layout, with other weights than a fresh one."""
    torch.manual_seed(9)
    drafter = BlockDrafter(drafter_config(build(), target)).bfloat16()
    checkpoint.write(tmp_path / "source", drafter.config, drafter.state_dict())
    return tmp_path / "source"


@pytest.mark.parametrize("layout", ["zlab", "speculators"])
@torch.no_grad()
def test_before_its_first_step_a_run_drafts_what_its_source_drafts(
    build, source, target_folder, tmp_path, layout
):
    export(source, tmp_path / "copy", layout=layout, target=target_folder)
    config = build(init_from=str(tmp_path / "copy"))
    trainer, loaded = Trainer(config, prepare(config), Ranks()), load_drafter(source)
    taps, blocks = torch.randn(1, 9, 64), torch.randn(1, 2, 4, 32)
    anchors = torch.tensor([[3, 8]])
    assert torch.equal(trainer.drafter(taps, blocks, anchors), loaded(taps, blocks, anchors))
    fresh = Trainer(build(), prepare(build()), Ranks()).drafter
    assert not torch.allclose(fresh(taps, blocks, anchors), loaded(taps, blocks, anchors))


def test_a_warm_run_resumes_from_its_own_state_not_from_its_source(build, source):
    config = build(init_from=str(source))
    trainer = Trainer(config, prepare(config), Ranks())
    trainer.train_step()
    trainer.save()
    resumed = Trainer(config, prepare(config), Ranks())
    assert resumed.step == 1
    expected = trainer.drafter.state_dict()
    assert all(
        torch.equal(tensor, expected[name]) for name, tensor in resumed.drafter.state_dict().items()
    )


def test_a_run_that_began_elsewhere_is_not_resumed(build, source, tmp_path):
    config = build(init_from=str(source))
    trainer = Trainer(config, prepare(config), Ranks())
    trainer.train_step()
    trainer.save()
    other = build(init_from=str(shutil.copytree(source, tmp_path / "other")))
    with pytest.raises(ConfigError, match=r"differs in drafter\.init_from"):
        Trainer(other, prepare(other), Ranks())


def refusal(config, target, kind=ConfigError):
    with pytest.raises(kind) as caught:
        drafter_config(config, target)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("shape", "difference"),
    [
        (
            {"intermediate_size": 48},
            "layers.0.mlp.down_proj.weight: there [32, 64], here [32, 48].",
        ),
        (
            {"num_hidden_layers": 3},
            "layers.2.input_layernorm.weight: there absent, here [32].",
        ),
        ({"num_taps": 1}, "fc.weight: there [32, 64], here [32, 32]."),
        (
            {"attention_bias": True},
            "layers.0.self_attn.k_proj.bias: there absent, here [16].",
        ),
    ],
)
def test_another_shape_is_refused_with_the_first_tensor_that_differs(
    build, source, target, shape, difference
):
    text = refusal(build(init_from=str(source), **shape), target)
    assert f"{source}: does not fit this run, first in {difference}" in text
    assert "drop drafter.init_from" in text


def test_weights_trained_on_other_layers_are_refused(build, source, target):
    text = refusal(build(init_from=str(source), target_layer_ids=[0, 3]), target)
    assert "was trained on target_layer_ids [1, 3], this run reads [0, 3]" in text


def test_a_source_that_is_not_there_is_one_line(build, target, tmp_path):
    text = refusal(build(init_from=str(tmp_path / "nowhere")), target, CheckpointError)
    assert "does not exist" in text


def test_what_fits_but_computes_something_else_is_warned_of(build, source, target, caplog):
    with caplog.at_level(logging.WARNING):
        drafter_config(build(init_from=str(source), block_size=3, rope_theta=1e6), target)
    (record,) = caplog.records
    assert "this run changes rope_theta 10000.0 -> 1000000.0, block_size 4 -> 3" in record.message


def test_the_same_shape_is_not_warned_of(build, source, target, caplog):
    with caplog.at_level(logging.WARNING):
        drafter_config(build(init_from=str(source)), target)
    assert not caplog.records


KINDS = [
    {"kind": "low_rank", "group_size": 2, "rank": 3},
    {"kind": "last_layer", "group_size": 1},
    {"kind": "last_layer", "group_size": 2},  # three draft positions: the last group has one
]


@pytest.mark.parametrize("specialists", KINDS)
@torch.no_grad()
def test_before_its_first_step_a_run_with_specialists_drafts_what_its_plain_source_drafts(
    build, source, specialists
):
    config = build(init_from=str(source), specialists=specialists)
    drafter, loaded = Trainer(config, prepare(config), Ranks()).drafter, load_drafter(source)
    taps, blocks = torch.randn(1, 9, 64), torch.randn(1, 2, 4, 32)
    anchors = torch.tensor([[3, 8]])
    found, expected = (one(taps, blocks, anchors)[:, :, 1:] for one in (drafter, loaded))
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert all(len(stack) > 1 for stack in drafter.specialists.parameters())


@pytest.mark.parametrize("specialists", KINDS)
def test_a_drafter_with_specialists_goes_on_from_all_its_weights(
    build, target, tmp_path, specialists
):
    torch.manual_seed(9)
    trained = BlockDrafter(drafter_config(build(specialists=specialists), target)).bfloat16()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.normal_()
    checkpoint.write(tmp_path / "trained", trained.config, trained.state_dict())
    config = build(init_from=str(tmp_path / "trained"), specialists=specialists)
    found = Trainer(config, prepare(config), Ranks()).drafter.state_dict()
    assert all(torch.equal(found[key], w.float()) for key, w in trained.state_dict().items())


@pytest.mark.parametrize("asked", [None, KINDS[0], KINDS[1]])
def test_specialists_of_another_kind_or_size_are_no_start(build, target, tmp_path, asked):
    trained = BlockDrafter(drafter_config(build(specialists=KINDS[2]), target))
    checkpoint.write(tmp_path / "trained", trained.config, trained.state_dict())
    text = refusal(build(init_from=str(tmp_path / "trained"), specialists=asked), target)
    assert "has the specialists {'kind': 'last_layer', 'group_size': 2}, this run" in text
    assert "Set drafter.specialists to them" in text


def test_a_plain_source_is_not_warned_of_as_a_change(build, source, target, caplog):
    with caplog.at_level(logging.WARNING):
        drafter_config(build(init_from=str(source), specialists=KINDS[0]), target)
    assert not caplog.records
