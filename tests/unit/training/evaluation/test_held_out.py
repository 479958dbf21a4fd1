import json

import pytest
import torch
from typer.testing import CliRunner

from dpace_serve.drafter import checkpoint
from dpace_serve.errors import CheckpointError, ConfigError
from dpace_training.cli import app
from dpace_training.data.prepare import prepare
from dpace_training.data.tokenize import chat_prompt_ids
from dpace_training.evaluation.compare import compare_drafters, load_drafter
from dpace_training.evaluation.config import ComparisonConfig
from dpace_training.evaluation.decode import decode
from dpace_training.evaluation.held_out import held_out_prompts, measure_acceptance
from dpace_training.evaluation.rollouts import Rollout, RolloutBatch
from dpace_training.fit import run
from dpace_training.fit.ranks import Ranks
from dpace_training.fit.trainer import Trainer

CPU = torch.device("cpu")
LIMIT = 24


def test_replay_counts_what_decoding_with_the_drafter_takes(made, target):
    config, _ = made
    drafter = load_drafter(config.output)
    data = prepare(config)
    prompts = held_out_prompts(target, data.held_out, data.drafter.target_layer_ids, batch_size=4)
    arm = measure_acceptance(
        "dpace",
        drafter,
        prompts,
        embedding=target.model.get_input_embeddings().weight,
        head=target.model.get_output_embeddings().weight,
    )
    for document, prompt, pair in zip(data.held_out, prompts, arm.pairs, strict=True):
        start = prompt.rollout.num_prompt_tokens
        decoded = decode(
            target.model,
            drafter,
            torch.tensor(document.token_ids[:start]),
            max_tokens=LIMIT,
            end_ids=target.end_ids,
        )
        assert decoded.tokens == document.token_ids[start:]
        steps = decoded.settled()
        assert pair == (sum(steps.per_step_accepted), len(steps.per_step_accepted))
    assert 1.2 < arm.total.tau < 4  # neither nothing nor everything is accepted


def test_only_the_last_answer_of_a_chat_is_replayed(made, target):
    config, _ = made
    data = prepare(config)
    (prompt, *_) = held_out_prompts(
        target, data.held_out, data.drafter.target_layer_ids, batch_size=4
    )
    source = json.loads(config.data.conversations.read_text().splitlines()[0])["messages"]
    from dpace_training.data.conversations import Message

    expected = chat_prompt_ids(target.tokenizer, [Message(**message) for message in source])
    assert prompt.rollout.num_prompt_tokens == len(expected)
    assert prompt.rollout.token_ids.tolist()[: len(expected)] == expected


def test_eval_measures_the_written_drafter_as_training_did(made, tmp_path):
    config, facts = made
    result = tmp_path / "result.json"
    shown = CliRunner().invoke(
        app,
        [
            "eval",
            f"--target={config.target}",
            f"--drafter={config.output}",
            f"--prompts={config.data.conversations}",
            f"--json={result}",
            f"--set=max_new_tokens={LIMIT}",
        ],
    )
    assert shown.exit_code == 0, shown.output
    (arm,) = json.loads(result.read_text())["arms"]
    # The weights on disk are rounded to bfloat16, so a draft may differ here and there.
    assert arm["tau"] == pytest.approx(facts["evaluation"]["tau"], rel=0.1)
    assert arm["workloads"].keys() == {"csv", "json"}
    assert "dpace" in shown.output


def test_eval_of_sampled_answers_says_so_and_depends_on_the_seed(made):
    config, _ = made

    def evaluated(**settings):
        prompts = ComparisonConfig(
            conversations=config.data.conversations, max_new_tokens=LIMIT, **settings
        )
        return compare_drafters(
            config.target, [config.output], prompts, device=CPU, answers=None, store=None
        )

    greedy, sampled = evaluated(), evaluated(temperature=1, seed=3)
    assert (greedy["temperature"], greedy["seed"]) == (0, None)
    assert (sampled["temperature"], sampled["seed"]) == (1, 3)
    assert sampled["arms"] == evaluated(temperature=1, seed=3)["arms"]
    assert sampled["arms"] != evaluated(temperature=1, seed=4)["arms"]
    # Trained on greedy answers, it is right more often in them.
    assert sampled["arms"][0]["tau"] < greedy["arms"][0]["tau"]


def test_answers_kept_at_another_temperature_are_refused(made, tmp_path):
    config, _ = made
    prompts = ComparisonConfig(conversations=config.data.conversations, max_new_tokens=4)
    answers = tmp_path / "answers.jsonl"
    compare_drafters(
        config.target, [config.output], prompts, device=CPU, answers=answers, store=None
    )
    with pytest.raises(ConfigError, match="answers"):
        compare_drafters(
            config.target,
            [config.output],
            prompts.model_copy(update={"temperature": 1.0}),
            device=CPU,
            answers=answers,
            store=None,
        )


def test_drafting_at_all_anchors_can_be_left_out(made):
    config, _ = made
    prompts = ComparisonConfig(
        conversations=config.data.conversations, max_new_tokens=LIMIT, all_anchors=False
    )
    (arm,) = compare_drafters(
        config.target, [config.output], prompts, device=CPU, answers=None, store=None
    )["arms"]
    assert "all_anchors" not in arm


def test_padding_of_a_batch_does_not_reach_the_hidden_states(made, target):
    config, _ = made
    data = prepare(config)
    ids = data.drafter.target_layer_ids
    together = held_out_prompts(target, data.held_out, ids, batch_size=6)
    alone = held_out_prompts(target, data.held_out, ids, batch_size=1)
    for first, second in zip(together, alone, strict=True):
        assert first.rollout.token_ids.equal(second.rollout.token_ids)
        assert torch.allclose(first.rollout.taps, second.rollout.taps, atol=1e-4)


def test_kept_answers_are_used_again(made, tmp_path):
    config, _ = made
    prompts = ComparisonConfig(conversations=config.data.conversations, max_new_tokens=LIMIT)
    answers = tmp_path / "kept" / "answers.jsonl"
    fresh = compare_drafters(
        config.target, [config.output], prompts, device=CPU, answers=None, store=None
    )
    assert (
        compare_drafters(
            config.target, [config.output], prompts, device=CPU, answers=answers, store=None
        )
        == fresh
    )
    # An answer that only the file knows shows that the file is read.
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    cut = [{**line, "answer_ids": line["answer_ids"][:1]} for line in lines]
    answers.write_text("".join(json.dumps(line) + "\n" for line in cut))
    again = compare_drafters(
        config.target, [config.output], prompts, device=CPU, answers=answers, store=None
    )
    assert again["arms"][0]["steps"] < fresh["arms"][0]["steps"]


def test_a_drafter_of_another_target_is_refused(made, tmp_path):
    config, _ = made
    shape = checkpoint.read_config(config.output)
    values = {name: getattr(shape, name) for name in type(shape).__slots__}
    foreign = type(shape)(**{**values, "num_target_layers": 9})
    checkpoint.write(tmp_path / "foreign", foreign, checkpoint.read_tensors(config.output))
    prompts = ComparisonConfig(conversations=config.data.conversations)
    with pytest.raises(CheckpointError, match=r"num_target_layers 9, .* has 6"):
        compare_drafters(
            config.target, [tmp_path / "foreign"], prompts, device=CPU, answers=None, store=None
        )


def test_drafters_of_the_same_name_are_refused(made):
    config, _ = made
    prompts = ComparisonConfig(conversations=config.data.conversations)
    with pytest.raises(ConfigError, match="got dpace, dpace"):
        compare_drafters(
            config.target,
            [config.output, config.output],
            prompts,
            device=CPU,
            answers=None,
            store=None,
        )


def test_training_leaves_nothing_to_do_once_it_is_finished(made):
    config, facts = made
    trainer = Trainer(config, prepare(config), Ranks())
    assert trainer.step == trainer.total_steps == 12
    assert run.train(config) == facts


def test_rollouts_go_where_the_drafter_is(made):
    config, _ = made
    drafter = load_drafter(config.output)
    rollout = Rollout(
        torch.arange(6), num_prompt_tokens=2, taps=torch.zeros(5, drafter.fc.in_features)
    )
    batch = RolloutBatch.of(drafter.to("meta"), [rollout])
    tensors = (batch.token_ids, batch.lasts, batch.context[0][0])
    assert {tensor.device.type for tensor in tensors} == {"meta"}
