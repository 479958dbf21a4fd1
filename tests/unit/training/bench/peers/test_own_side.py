from dataclasses import replace

import pytest

from dpace_serve.demo.bundle import drafter_folder
from dpace_serve.drafter.checkpoint import read_config
from dpace_serve.errors import ConfigError
from dpace_training.bench.peers.__main__ import OWN_ATTENTION
from dpace_training.bench.peers.answering import Side, TakenStep, answer_lines
from dpace_training.bench.peers.own_step import build
from dpace_training.bench.peers.size import StepSize


def test_every_line_is_answered_by_one_step_until_the_input_ends():
    steps = iter([TakenStep(2.5, 10), TakenStep(2.0, 11)])
    side = Side(versions={"side": "1"}, num_parameters=7, take_step=lambda: next(steps))
    answers = []
    answer_lines(lambda: side, ["\n", "\n"], answers.append)
    ready, first, second = answers
    assert ready == {"versions": {"side": "1"}, "num_parameters": 7}
    assert (first["loss"], first["num_supervised"]) == (2.5, 10)
    assert (second["loss"], second["num_supervised"]) == (2.0, 11)
    assert 0 <= first["seconds"] < 1
    assert 0 <= first["processor_seconds"] < 1


def test_the_size_is_that_of_the_bundled_drafter():
    size, drafter = StepSize(), read_config(drafter_folder("dpace"))
    assert (size.hidden_size, size.intermediate_size) == (
        drafter.hidden_size,
        drafter.intermediate_size,
    )
    assert (size.num_heads, size.num_kv_heads, size.head_dim) == (
        drafter.num_attention_heads,
        drafter.num_key_value_heads,
        drafter.head_dim,
    )
    assert size.num_layers == drafter.num_hidden_layers
    assert size.num_taps == len(drafter.target_layer_ids)
    assert size.num_target_layers == drafter.num_target_layers
    assert max(size.target_layer_ids) < size.num_target_layers
    assert (size.block_size, size.vocab_size) == (drafter.block_size, drafter.vocab_size)
    assert (size.mask_token_id, size.rope_theta) == (drafter.mask_token_id, drafter.rope_theta)


def test_our_side_supervises_what_the_blocks_of_all_documents_hold():
    side = build(StepSize(), attention=OWN_ATTENTION, precision="float32")
    taken = side.take_step()
    # At most 16 documents x 16 anchors x 7 draft positions; blocks at the end hold fewer.
    assert 0.9 * 1792 < float(taken.num_supervised) <= 1792


def test_our_side_refuses_another_attention_or_other_documents():
    with pytest.raises(ConfigError, match=r"fit\.attention"):
        build(StepSize(), attention="blocks", precision="float32")
    with pytest.raises(ValueError, match="96 tokens, 16 of them"):
        build(replace(StepSize(), num_tokens=64), attention=OWN_ATTENTION, precision="float32")
