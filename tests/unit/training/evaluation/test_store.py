"""Answers and hidden states that one evaluation keeps for the next one."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from dpace_serve.drafter import checkpoint
from dpace_serve.errors import ConfigError
from dpace_training.cli import app
from dpace_training.data.feature_cache import cache_features
from dpace_training.data.prepare import prepare
from dpace_training.evaluation.compare import compare_drafters
from dpace_training.evaluation.config import ComparisonConfig
from dpace_training.evaluation.held_out import held_out_prompts
from dpace_training.evaluation.store import stored_prompts

LIMIT = 24


def evaluated(config, store, *, drafters=None, target=None, answers=None, **settings):
    settings = {"conversations": config.data.conversations, "max_new_tokens": LIMIT} | settings
    return compare_drafters(
        target or config.target,
        drafters or [config.output],
        ComparisonConfig(**settings),
        device=torch.device("cpu"),
        answers=answers,
        store=store,
    )


def forget_hidden_states(store):
    """Make all stored states zero, so that whoever reads them there drafts otherwise."""
    for shard in store.glob("layers-*/shard-*.safetensors"):
        tensors = load_file(shard)
        save_file(tensors | {"taps": torch.zeros_like(tensors["taps"])}, shard)


def test_the_next_evaluation_finds_what_the_first_one_kept(made, tmp_path):
    config, _ = made
    store = tmp_path / "new" / "store"
    fresh = evaluated(config, None)
    assert evaluated(config, store) == evaluated(config, store) == fresh
    forget_hidden_states(store)
    assert evaluated(config, store) != fresh


def test_a_store_rounds_no_hidden_state(made, target, tmp_path):
    config, _ = made
    documents = prepare(config).held_out
    fresh = held_out_prompts(target, documents, (1, 3), batch_size=4)
    for _ in range(2):
        stored = stored_prompts(target, documents, (1, 3), tmp_path, batch_size=4)
        for from_disk, computed in zip(stored, fresh, strict=True):
            assert torch.equal(from_disk.rollout.taps, computed.rollout.taps)
            assert torch.equal(from_disk.rollout.token_ids, computed.rollout.token_ids)


def test_the_command_keeps_them_in_the_folder_it_is_given(made, tmp_path):
    config, _ = made
    store, result = tmp_path / "store", tmp_path / "result.json"
    arguments = [
        "eval",
        f"--target={config.target}",
        f"--drafter={config.output}",
        f"--prompts={config.data.conversations}",
        f"--store={store}",
        f"--json={result}",
        f"--set=max_new_tokens={LIMIT}",
    ]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    first = json.loads(result.read_text())
    assert (store / "answers.jsonl").exists()
    forget_hidden_states(store)
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert json.loads(result.read_text()) != first


def test_a_drafter_of_other_layers_is_stored_beside(made, tmp_path):
    config, _ = made
    shape = checkpoint.read_config(config.output)
    ids = shape.target_layer_ids
    folders = [config.output]
    for name, offset in (("deep", 1), ("shallow", -1)):
        shifted = tuple(layer_id + offset for layer_id in ids)
        changed = dataclasses.replace(shape, target_layer_ids=shifted)
        checkpoint.write(tmp_path / name, changed, checkpoint.read_tensors(config.output))
        folders.append(tmp_path / name)
    store = tmp_path / "store"
    fresh = evaluated(config, None, drafters=folders)
    assert len({arm["steps"] for arm in fresh["arms"]}) == 3
    for _ in range(2):
        assert evaluated(config, store, drafters=folders) == fresh
    assert len(list(store.glob("layers-*"))) == 3


def other_target(config, tmp_path):
    folder = shutil.copytree(config.target, tmp_path / "target")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] *= 1.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return {"target": folder}


def other_prompts(config, tmp_path):
    lines = config.data.conversations.read_text().replace("say", "sing")
    (tmp_path / "prompts.jsonl").write_text(lines)
    return {"conversations": tmp_path / "prompts.jsonl"}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (other_target, "target"),
        (other_prompts, "prompts"),
        (lambda config, tmp_path: {"max_documents": 3}, "prompts"),
        (lambda config, tmp_path: {"dtype": "bfloat16"}, "target_dtype"),
        (lambda config, tmp_path: {"temperature": 1.0}, "settings"),
        (lambda config, tmp_path: {"max_new_tokens": 12}, "settings"),
    ],
)
def test_a_store_of_something_else_is_refused_in_one_line(made, tmp_path, change, what):
    config, _ = made
    evaluated(config, tmp_path / "store")
    with pytest.raises(ConfigError, match=f"made with another {what}\\.") as refused:
        evaluated(config, tmp_path / "store", **change(config, tmp_path))
    assert "\n" not in str(refused.value)


def test_answers_may_be_kept_elsewhere_and_must_be_those_of_the_store(made, tmp_path):
    config, _ = made
    answers, store = tmp_path / "answers.jsonl", tmp_path / "store"
    evaluated(config, store, answers=answers)
    assert not (store / "answers.jsonl").exists()
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    cut = [{**line, "answer_ids": line["answer_ids"][:4]} for line in lines]
    answers.write_text("".join(json.dumps(line) + "\n" for line in cut))
    with pytest.raises(ConfigError, match="hidden states there were made with another documents"):
        evaluated(config, store, answers=answers)


def test_training_never_takes_the_states_of_a_store_for_its_own(made, target, tmp_path):
    config, _ = made
    documents = prepare(config).held_out
    stored_prompts(target, documents, (1, 3), tmp_path, batch_size=4)
    with pytest.raises(ConfigError, match="made with another states_dtype"):
        cache_features(target, documents, (1, 3), tmp_path / "layers-1-3", batch_size=4)
