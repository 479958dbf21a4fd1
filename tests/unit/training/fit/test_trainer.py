import copy
import dataclasses
import json
import types
import weakref

import pytest
import torch
import yaml

from dpace_serve.config import build_config, load_config
from dpace_serve.drafter import checkpoint
from dpace_serve.errors import CheckpointError, ConfigError
from dpace_training.config import TrainConfig
from dpace_training.data.prepare import prepare
from dpace_training.drafter.model import BlockDrafter
from dpace_training.drafter.shape import drafter_config
from dpace_training.evaluation.compare import load_drafter
from dpace_training.fit import run
from dpace_training.fit import trainer as trainer_module
from dpace_training.fit.batches import make_batch
from dpace_training.fit.ranks import Ranks
from dpace_training.fit.resume import load_resume_point, saved_states
from dpace_training.fit.trainer import Trainer
from dpace_training.losses.config import RECIPES


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


def fresh(config):
    return Trainer(config, prepare(config), Ranks())


def losses(trainer, steps):
    return [trainer.train_step().loss for _ in range(steps)]


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.drafter.state_dict().items()}


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def test_training_lowers_the_loss(build):
    trainer = fresh(build())
    seen = losses(trainer, 9)
    assert trainer.total_steps == 9  # 10 documents in batches of 4, three times
    assert sum(seen[-3:]) < sum(seen[:3])


def test_a_resumed_run_takes_bit_equal_steps(build):
    config = build()
    whole = fresh(config)
    losses(whole, 4)  # in the middle of the second epoch
    whole.save()
    expected = losses(whole, 5)
    resumed = fresh(config)
    assert resumed.step == 4
    assert losses(resumed, 5) == expected
    assert same(weights(resumed), weights(whole))


def gradients(trainer):
    return {name: p.grad.clone() for name, p in trainer.drafter.named_parameters()}


def norm_of(tensors):
    return float(sum(tensor.double().square().sum() for tensor in tensors.values()).sqrt())


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_gradient_above_the_limit_is_shortened_to_it_and_keeps_its_direction(build, share):
    free = fresh(build(fit__clip_norm=1e9))
    norm = free.train_step().gradient_norm
    assert norm_of(gradients(free)) == pytest.approx(norm, rel=1e-5)
    clipped = fresh(build(fit__clip_norm=share * norm, fit__betas=[0.5, 0.75]))
    # The log has the norm before clipping.
    assert clipped.train_step().gradient_norm == pytest.approx(norm, rel=1e-5)
    assert norm_of(gradients(clipped)) == pytest.approx(share * norm, rel=1e-4)
    (adamw,) = clipped._optimizers
    for name, gradient in gradients(free).items():
        shortened = share * gradient
        torch.testing.assert_close(gradients(clipped)[name], shortened, rtol=1e-4, atol=1e-8)
        # It is the shortened gradient that the optimizer has seen.
        moments = adamw.state[clipped.drafter.get_parameter(name)]
        torch.testing.assert_close(moments["exp_avg"], 0.5 * shortened, rtol=1e-4, atol=1e-8)


def test_the_first_step_of_adamw_has_the_length_of_its_learning_rate(build):
    # Three of nine steps warm up: a third of 0.01. Without decay AdamW's first step is that far.
    trainer = fresh(build(fit__warmup_ratio=1 / 3))
    before = weights(trainer)
    assert trainer.train_step().learning_rate == pytest.approx(0.01 / 3)
    moved = (weights(trainer)["fc.weight"] - before["fc.weight"]).abs()
    assert float(moved.median()) == pytest.approx(0.01 / 3, rel=1e-2)


def test_a_resumed_run_has_the_random_state_that_was_saved(build):
    config = build()
    trainer = fresh(config)
    trainer.train_step()
    trainer.save()
    expected = torch.rand(3)
    torch.manual_seed(99)
    fresh(config)
    assert torch.equal(torch.rand(3), expected)


def test_the_random_state_of_the_device_is_saved_and_put_back(build, monkeypatch):
    config = build()
    trainer = fresh(config)
    trainer.train_step()
    device, state = torch.device("cuda", 0), torch.tensor([1, 2, 3], dtype=torch.uint8)
    put_back = []
    module = types.SimpleNamespace(
        get_rng_state=lambda device: state,
        set_rng_state=lambda state, device: put_back.append((state.tolist(), device)),
    )
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_device_module", {device: module}.__getitem__)
        patch.setattr(trainer._ranks, "device", device)
        trainer.save()
        load_resume_point(config.output, trainer._fitted, config, data=trainer._digest)
    assert put_back == [([1, 2, 3], device)]


def test_the_share_of_tokens_that_blocks_predict_is_logged_and_kept(build, write_jsonl, caplog):
    caplog.set_level("INFO")
    # Blocks of 4 stand at d and e of the long answer and predict efgh; the short one holds none.
    records = [
        {"prompt": "abc", "completion": "defgh"},
        {"prompt": "abc", "completion": "d"},
    ]
    config = build(
        data__conversations=str(write_jsonl("short.jsonl", records)),
        data__regenerate__enabled=False,
    )
    facts = run.train(config)
    assert facts["trained_tokens"] == 6
    assert facts["anchor_coverage"] == 4 / 6
    assert "blocks of an epoch predict 66.7 % of the trained tokens" in caplog.text
    assert json.loads((config.output / "training.json").read_text())["anchor_coverage"] == 4 / 6


def test_objectives_start_from_the_same_weights(build):
    trainers = [fresh(build(loss__weighting=name)) for name in ("uniform", "exp_decay", "dpace")]
    assert same(weights(trainers[0]), weights(trainers[1]))
    assert same(weights(trainers[0]), weights(trainers[2]))
    other_seed = fresh(build(fit__seed=1))
    assert not same(weights(trainers[0]), weights(other_seed))


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_every_recipe_trains_alone_and_in_micro_batches(build, recipe):
    whole = fresh(build(loss__recipe=recipe))
    parts = fresh(build(loss__recipe=recipe, fit__micro_batch_size=1))
    first, second = whole.train_step(), parts.train_step()
    assert second.loss == pytest.approx(first.loss, rel=1e-5)
    assert second.gradient_norm == pytest.approx(first.gradient_norm, rel=1e-4)
    assert first.gradient_norm > 0
    assert whole.drafter.config.objective == recipe


@pytest.mark.parametrize("reduction", ["anchor_seq", "batch", "weight_sum", "token", "block"])
def test_micro_batches_do_not_change_the_step(build, reduction):
    whole = fresh(build(loss__reduction=reduction))
    parts = fresh(build(loss__reduction=reduction, fit__micro_batch_size=1))
    first, second = whole.train_step(), parts.train_step()
    assert second.loss == pytest.approx(first.loss, rel=1e-5)
    assert second.gradient_norm == pytest.approx(first.gradient_norm, rel=1e-4)


@pytest.mark.parametrize(("size", "num_parts"), [(1, 4), (2, 2), (None, 1)])
def test_features_of_one_micro_batch_are_alive_at_a_time(build, monkeypatch, size, num_parts):
    config = build(fit__micro_batch_size=size)
    data = prepare(config)
    given, padded, alive = [], [], []

    class Features:
        def of(self, indices):
            alive.append(sum(taps() is not None for taps in [*given, *padded]))
            found = data.features.of(indices)
            given.extend(weakref.ref(feature.taps) for feature in found)
            return found

    def watched(*args, **settings):
        batch = make_batch(*args, **settings)
        padded.append(weakref.ref(batch.taps))
        return batch

    monkeypatch.setattr(trainer_module, "make_batch", watched)
    Trainer(config, dataclasses.replace(data, features=Features()), Ranks()).train_step()
    assert len(given) == 4
    assert alive == [0] * num_parts


def test_divided_by_weights_a_joint_term_is_the_mean_of_its_blocks(build):
    chain = {"loss__joint": "chain", "loss__joint_scale": 3, "loss__reduction": "weight_sum"}
    plain = fresh(build(loss__reduction="weight_sum")).train_step()
    whole = fresh(build(**chain)).train_step()
    parts = fresh(build(**chain, fit__micro_batch_size=1)).train_step()
    # Before the first step the drafters are the same, so the losses differ by the term alone.
    mean = float(whole.statistics.joint / whole.statistics.blocks)
    assert mean < 0
    assert whole.loss == pytest.approx(plain.loss + 3 * mean, rel=1e-6)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert parts.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-4)


def test_recomputed_layers_give_the_same_steps_from_fewer_kept_tensors(build):
    kept, recomputed = fresh(build()), fresh(build(fit__recompute_layers=True))
    saved = {}
    for name, trainer in (("kept", kept), ("recomputed", recomputed)):
        sizes = saved.setdefault(name, [])
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, sizes=sizes: sizes.append(tensor.numel()) or tensor,
            lambda tensor: tensor,
        )
        with hooks:
            trainer.train_step()
    assert sum(saved["recomputed"]) < sum(saved["kept"])
    assert losses(recomputed, 3) == losses(kept, 3)
    assert same(weights(recomputed), weights(kept))


@pytest.mark.parametrize("row_tokens", [40, 90, 500])
@pytest.mark.parametrize("window", [None, 6])
def test_documents_in_one_row_give_the_same_steps(build, row_tokens, window):
    apart = fresh(build(drafter__sliding_window=window))
    packed = fresh(build(drafter__sliding_window=window, fit__pack_tokens=row_tokens))
    for _ in range(3):
        first, second = apart.train_step(), packed.train_step()
        assert second.loss == pytest.approx(first.loss, rel=1e-5)
        assert second.gradient_norm == pytest.approx(first.gradient_norm, rel=1e-4)


def test_a_document_in_a_row_is_blind_to_its_neighbours(build):
    trainer = fresh(build())
    drafter, taps = trainer.drafter, torch.randn(1, 12, 64)
    inputs = drafter.embed_blocks(torch.tensor([[3]]), trainer.embedding)
    anchors, starts = torch.tensor([[9]]), torch.tensor([[5]])
    seen = drafter(taps, inputs, anchors, starts)
    other = taps.clone()
    other[:, :5] += 1
    assert torch.equal(drafter(other, inputs, anchors, starts), seen)
    other[:, 5] += 1
    assert not torch.allclose(drafter(other, inputs, anchors, starts), seen)


def test_documents_without_room_for_a_block_are_counted_and_left_out(build, write_jsonl, caplog):
    records = [
        {"prompt": "abc", "completion": "defgh"},
        {"prompt": "abc", "completion": "d"},
    ]
    config = build(
        data__conversations=str(write_jsonl("short.jsonl", records)),
        data__regenerate__enabled=False,
    )
    trainer = fresh(config)
    assert trainer.num_without_anchor == 1
    assert "1 of 2 documents have no place for a block of 4 tokens" in caplog.text
    with pytest.raises(ConfigError, match="no document has an answer that holds a block of 16"):
        fresh(
            config.model_copy(
                update={"drafter": config.drafter.model_copy(update={"block_size": 16})}
            )
        )


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"drafter__target_layer_ids": [1, 6]}, CheckpointError, "6"),
        ({"drafter__num_taps": 4}, ConfigError, "num_taps"),
        ({"drafter__mask_token_id": 259}, CheckpointError, "mask_token_id"),
    ],
)
def test_a_drafter_that_cannot_be_is_refused_before_the_target_works(build, change, error, said):
    config = build(**change)
    with pytest.raises(error, match=said):
        prepare(config)
    assert not config.data.work.exists()


def test_without_a_mask_token_the_first_unused_id_stands_for_it(build, target):
    config = build()
    bare = dataclasses.replace(target, tokenizer=copy.deepcopy(target.tokenizer))
    bare.tokenizer.mask_token = None
    with pytest.raises(ConfigError, match="no mask token and all 259 ids of the vocabulary"):
        drafter_config(config, bare)
    wider = copy.deepcopy(target.model)
    wider.config.vocab_size = 300
    assert drafter_config(config, dataclasses.replace(bare, model=wider)).mask_token_id == 259


def test_the_agreement_with_the_target_is_reported(build, write_jsonl, caplog):
    caplog.set_level("INFO")
    assert prepare(build()).agreement == 1.0
    assert "100.00 % of the trained tokens" in caplog.text
    assert "judged by 10 of 10 documents" in caplog.text
    assert "below data.min_agreement" not in caplog.text
    foreign = write_jsonl("foreign.jsonl", [{"prompt": "abc", "completion": "an old song"}])
    config = build(
        data__conversations=str(foreign),
        data__work=str(foreign.parent / "foreign"),
        data__regenerate__enabled=False,
    )
    assert prepare(config).agreement < 0.5
    assert "below data.min_agreement" in caplog.text


def test_hidden_states_may_be_recomputed(build):
    cached, recomputed = fresh(build()), fresh(build(data__hidden_states="recompute"))
    expected = cached.train_step().loss
    assert recomputed.train_step().loss == pytest.approx(expected, rel=1e-2)


def test_bfloat16_products_give_about_the_same_loss(build):
    exact, rounded = fresh(build()), fresh(build(fit__autocast="bfloat16"))
    assert rounded.train_step().loss == pytest.approx(exact.train_step().loss, rel=1e-2)
    assert all(p.dtype == torch.float32 for p in rounded.drafter.parameters())


def test_flex_attention_on_a_cpu_is_refused_before_the_target_works(build):
    config = build(fit__attention="flex")
    with pytest.raises(ConfigError, match="backward pass on a CPU"):
        run.train(config)
    assert not config.data.work.exists()


def test_steps_are_the_same_under_sdpa(build):
    plain, other = fresh(build()), fresh(build(fit__attention="sdpa"))
    assert losses(other, 4) == pytest.approx(losses(plain, 4), rel=1e-5)
    assert other.drafter.attention == "sdpa"


def test_a_save_inside_a_log_line_is_refused(build):
    with pytest.raises(ConfigError, match="save_every must be a multiple of log_every = 2, got 5"):
        build(fit__save_every=5)


def test_a_run_of_other_settings_or_data_is_not_resumed(build):
    config = build()
    trainer = fresh(config)
    trainer.train_step()
    trainer.save()
    with pytest.raises(ConfigError, match=r"differs in fit\.seed, loss\.alpha\. Choose another"):
        fresh(build(fit__seed=3, loss__alpha=0.4))
    data = prepare(config)
    data.documents.pop()
    with pytest.raises(ConfigError, match="differs in the data"):
        Trainer(config, data, Ranks())


def test_a_run_saved_before_a_setting_existed_is_resumed_with_its_default(build, monkeypatch):
    config = build()
    trainer = fresh(config)
    trainer.train_step()
    dump = TrainConfig.model_dump

    def old_dump(self, **options):
        values = dump(self, **options)
        del values["data"]["input"], values["data"]["enable_thinking"]
        return values

    with monkeypatch.context() as patch:
        patch.setattr(TrainConfig, "model_dump", old_dump)
        trainer.save()
    assert fresh(config).step == 1
    with pytest.raises(ConfigError, match=r"differs in data\.input\.invalid\. Choose"):
        fresh(build(data__input__invalid="skip"))


def test_a_damaged_state_is_one_clear_error(build):
    config = build()
    trainer = fresh(config)
    trainer.train_step()
    trainer.save()
    (state,) = saved_states(config.output)
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged or of another drafter"):
        fresh(config)


def test_a_finished_run_leaves_drafter_configuration_facts_and_log(build, write_jsonl):
    held_out = write_jsonl("held.jsonl", [{"prompt": "abc", "workload": "code"}] * 3)
    config = build(evaluation__conversations=str(held_out))
    facts = run.train(config)
    assert facts["steps"] == 9
    assert facts["evaluation"]["workloads"]["code"]["prompts"] == 3
    assert json.loads((config.output / "training.json").read_text()) == facts

    shape = checkpoint.validate(config.output)
    assert (shape.num_draft_tokens, shape.target_layer_ids, shape.mask_token_id) == (3, (1, 3), 258)
    assert (shape.objective, shape.target_revision) == ("dpace", facts["target_revision"])
    tensors = checkpoint.read_tensors(config.output)
    assert all(tensor.dtype == torch.bfloat16 for tensor in tensors.values())
    assert isinstance(load_drafter(config.output), BlockDrafter)

    assert load_config(TrainConfig, config.output / "train.yaml", []) == config
    assert yaml.safe_load((config.output / "train.yaml").read_text())["loss"]["alpha"] == 0.5

    log = [json.loads(line) for line in (config.output / "log.jsonl").read_text().splitlines()]
    steps = [record for record in log if "loss" in record]
    assert [record["step"] for record in steps] == [2, 4, 6, 8, 9]
    assert all(sum(record["weight_share"]) == pytest.approx(1, abs=1e-5) for record in steps)
    assert {"token_loss", "accuracy", "confidence", "leading_run"} <= steps[0].keys()
    assert [record["step"] for record in log if "evaluation" in record] == [4, 8, 9]


def test_a_cut_run_ends_with_the_same_drafter_and_the_same_log(build, monkeypatch, tmp_path):
    whole = build()
    run.train(whole)
    cut = build(output=str(tmp_path / "cut"))
    real = Trainer.train_step

    def fail_at_7(trainer):
        if trainer.step == 7:
            raise KeyboardInterrupt
        return real(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", fail_at_7)
        with pytest.raises(KeyboardInterrupt):
            run.train(cut)
    assert not (cut.output / "model.safetensors").exists()
    run.train(cut)
    for name in ("model.safetensors", "log.jsonl"):
        assert (cut.output / name).read_bytes() == (whole.output / name).read_bytes()
