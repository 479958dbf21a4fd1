"""Growing and resuming the demo target."""

import itertools
import json

import pytest
import torch
from safetensors.torch import load_file

from dpace_training.demo import target as target_module
from dpace_training.demo.target import Stage, TargetConfig, build_model, grow, train_target

TINY = TargetConfig(
    hidden_size=32,
    intermediate_size=32,
    num_attention_heads=1,
    num_key_value_heads=1,
    stages=(
        Stage(layers=1, steps=4, rows=2, peak=0.02, final=0.5),
        Stage(layers=2, steps=2, rows=2, peak=0.01, final=0.0),
    ),
    tokens=8,
    warmup_steps=2,
    save_every_steps=2,
)
DOCUMENTS = [([5, 6, 7, 8], 2), ([9, 10, 11], 1), ([12, 13, 14, 15, 16], 3)]


def _train(config, work):
    return train_target(lambda _: itertools.cycle(DOCUMENTS), config, work, vocab_size=32)


def test_a_grown_model_repeats_the_stack():
    shallow = build_model(TINY, 2, 32)
    deep = grow(shallow, 6, TINY)
    for index in range(6):
        for name, value in deep.model.layers[index].state_dict().items():
            assert torch.equal(value, shallow.model.layers[index % 2].state_dict()[name])
    assert torch.equal(deep.model.embed_tokens.weight, shallow.model.embed_tokens.weight)


def test_growth_needs_a_multiple_of_the_depth():
    with pytest.raises(ValueError, match="multiple of 2"):
        grow(build_model(TINY, 2, 32), 5, TINY)


def test_the_rate_rises_stays_and_falls_to_the_final_share():
    stage = Stage(layers=1, steps=100, rows=1, peak=1.0, final=0.2)
    rates = [target_module._schedule(step, stage, 10) for step in (0, 9, 50, 75, 100)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.6, 0.2])


def test_a_run_that_was_cut_ends_with_the_same_weights(tmp_path, monkeypatch):
    whole = _train(TINY, tmp_path / "whole").state_dict()

    class CutError(RuntimeError):
        pass

    log = target_module._log

    def cut_after_three(path, step, *args):
        log(path, step, *args)
        if step == 3:
            raise CutError

    with monkeypatch.context() as patch:
        patch.setattr(target_module, "_log", cut_after_three)
        with pytest.raises(CutError):
            _train(TINY, tmp_path / "cut")
    assert int(load_file(tmp_path / "cut" / "stage-0.safetensors")["step"]) == 2
    resumed = _train(TINY, tmp_path / "cut").state_dict()
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


def test_training_lowers_the_loss(tmp_path):
    config = TINY.model_copy(
        update={"stages": (Stage(layers=1, steps=30, rows=2, peak=0.02, final=0.5),)}
    )
    _train(config, tmp_path)
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "stage-0.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < 0.5 * losses[0]
