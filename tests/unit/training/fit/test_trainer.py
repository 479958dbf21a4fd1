import dataclasses
import types
import weakref

import pytest
import torch

from dpace_training.data.prepare import prepare
from dpace_training.fit import trainer as trainer_module
from dpace_training.fit.batches import make_batch
from dpace_training.fit.ranks import Ranks
from dpace_training.fit.resume import load_resume_point
from dpace_training.fit.trainer import Trainer
from dpace_training.losses.config import RECIPES


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


def test_hidden_states_may_be_recomputed(build):
    cached, recomputed = fresh(build()), fresh(build(data__hidden_states="recompute"))
    expected = cached.train_step().loss
    assert recomputed.train_step().loss == pytest.approx(expected, rel=1e-2)


def test_bfloat16_products_give_about_the_same_loss(build):
    exact, rounded = fresh(build()), fresh(build(fit__autocast="bfloat16"))
    assert rounded.train_step().loss == pytest.approx(exact.train_step().loss, rel=1e-2)
    assert all(p.dtype == torch.float32 for p in rounded.drafter.parameters())


def test_steps_are_the_same_under_sdpa(build):
    plain, other = fresh(build()), fresh(build(fit__attention="sdpa"))
    assert losses(other, 4) == pytest.approx(losses(plain, 4), rel=1e-5)
    assert other.drafter.attention == "sdpa"
