"""A part of one's own: one function and one line in a table, then its name in the settings."""

import math

import pytest
import torch
import yaml

from dpace_serve.config import load_config
from dpace_serve.errors import ConfigError
from dpace_training.config import TrainConfig
from dpace_training.data.prepare import prepare
from dpace_training.fit.ranks import Ranks
from dpace_training.fit.trainer import Trainer
from dpace_training.losses.config import LossConfig
from dpace_training.losses.joint import JOINT_TERMS
from dpace_training.losses.objective import block_objective
from dpace_training.losses.part import JointTerm, Part
from dpace_training.losses.tables import PART_SETTINGS, table
from dpace_training.losses.token_loss import TOKEN_LOSSES
from dpace_training.losses.weighting import WEIGHTINGS

V1 = (0.8, 0.5, 0.25, 0.1)


@pytest.fixture(name="run_file")
def write_run(target_folder, write_jsonl, tmp_path):
    chats = [{"messages": [{"role": "user", "content": f"say {i}"}]} for i in range(6)]
    values = {
        "target": str(target_folder),
        "output": str(tmp_path / "drafter"),
        "data": {
            "conversations": str(write_jsonl("chats.jsonl", chats)),
            "work": str(tmp_path / "work"),
            "regenerate": {"max_new_tokens": 16},
        },
        "drafter": {"num_hidden_layers": 1, "block_size": 4, "num_taps": 2},
        "loss": {"recipe": "uniform", "reduction": "block"},
        "fit": {"epochs": 4, "batch_size": 6, "num_anchors": 6, "learning_rate": 1e-2},
    }
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


def first_steps(run_file, *overrides):
    config = load_config(TrainConfig, run_file, overrides)
    trainer = Trainer(config, prepare(config), Ranks())
    return [trainer.train_step() for _ in range(4)]


def twice(predictions, loss):
    return torch.full_like(predictions.cross_entropy, 2)


def missing_confidence(predictions, loss):
    return 1 - torch.exp(-predictions.cross_entropy)


def total_cost(predictions, loss):
    return predictions.cross_entropy.sum(dim=-1)


def later_confidence(predictions, loss):
    """What the confidences behind a position sum to."""
    confidence = predictions.confidence
    return confidence.flip(-1).cumsum(dim=-1).flip(-1) - confidence


def test_a_weighting_of_ones_own_trains(run_file, monkeypatch):
    uniform = first_steps(run_file)
    monkeypatch.setitem(WEIGHTINGS, "twice", Part(twice))
    found = first_steps(run_file, "loss.weighting=twice", "loss.recipe=null")
    # The same drafter before its first step.
    assert found[0].loss == pytest.approx(2 * uniform[0].loss, rel=1e-6)
    assert found[0].gradient_norm == pytest.approx(2 * uniform[0].gradient_norm, rel=1e-5)
    assert found[-1].loss < found[0].loss


def test_a_token_loss_of_ones_own_trains(run_file, monkeypatch):
    monkeypatch.setitem(TOKEN_LOSSES, "missing", Part(missing_confidence))
    found = first_steps(run_file, "loss.token_loss=missing")
    first = found[0].statistics
    assert first.mean_token_loss.tolist() == pytest.approx((1 - first.mean_confidence).tolist())
    assert found[-1].loss < found[0].loss


def test_a_joint_term_of_ones_own_trains_with_its_own_scale(run_file, monkeypatch):
    uniform = first_steps(run_file)
    monkeypatch.setitem(JOINT_TERMS, "total", JointTerm(total_cost, default_scale=3.0))
    # Summed cross-entropy, so that the whole is that of the positions once and three times.
    for override, times in (("loss.recipe=uniform", 4), ("loss.joint_scale=0.5", 1.5)):
        found = first_steps(run_file, "loss.joint=total", override)
        assert found[0].loss == pytest.approx(times * uniform[0].loss, rel=1e-6)
        assert found[-1].loss < found[0].loss


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("weighting", "'uniform', 'exp_decay', 'dpace' or 'reach'"),
        ("token_loss", "'ce', 'kl', 'tv', 'neg_log_acceptance' or 'lk_hybrid'"),
        ("joint", "'none', 'chain' or 'expected_tau'"),
    ],
)
def test_an_unknown_name_is_refused_in_one_line_with_those_in_the_table(run_file, key, known):
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, run_file, [f"loss.{key}=best"])
    assert f"loss.{key}: Input should be {known}, got 'best'. Correct" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_no_text_is_refused():
    with pytest.raises(ValueError, match="valid string"):
        LossConfig(weighting=3)


def test_the_schema_lists_the_names_in_the_tables(monkeypatch):
    monkeypatch.setitem(WEIGHTINGS, "twice", Part(twice))
    properties = LossConfig.model_json_schema()["properties"]
    for key in PART_SETTINGS:
        assert properties[key]["enum"] == list(table(key))
    assert properties["weighting"]["enum"][-1] == "twice"


def test_the_settings_that_an_entry_reads_may_be_set_beside_it(monkeypatch):
    monkeypatch.setitem(WEIGHTINGS, "twice", Part(twice, reads=("alpha",)))
    assert LossConfig(weighting="twice", alpha=0.2).alpha == 0.2
    with pytest.raises(ValueError, match=r"gamma = 3\.0 has no effect: only weighting = exp_decay"):
        LossConfig(weighting="twice", gamma=3)
    with pytest.raises(ValueError, match="only weighting = dpace or twice uses it"):
        LossConfig(weighting="uniform", alpha=0.2)


def test_a_setting_may_be_read_by_two_kinds_of_parts(monkeypatch):
    monkeypatch.setitem(TOKEN_LOSSES, "missing", Part(missing_confidence, reads=("alpha",)))
    chosen = {"recipe": "uniform", "token_loss": "missing"}
    assert LossConfig(**chosen, alpha=0.2).alpha == 0.2
    message = (
        "only token_loss = missing or weighting = dpace uses it, and token_loss is ce and weighting"
        r" is uniform\. Leave it out \(default 0\.5\), or change token_loss or weighting"
    )
    with pytest.raises(ValueError, match=message):
        LossConfig(recipe="uniform", alpha=0.2)


def test_an_entry_that_looks_at_the_target_asks_for_soft_labels(monkeypatch):
    def sureness(predictions, loss):
        return predictions.require_agreement().greedy_acceptance

    monkeypatch.setitem(WEIGHTINGS, "sure", Part(sureness, compares="distributions"))
    with pytest.raises(ValueError, match=r'weighting = sure compare .* need labels = "soft"'):
        LossConfig(weighting="sure")
    assert LossConfig(weighting="sure", labels="soft").needs_target
    # What an entry does not say is found by its first step.
    monkeypatch.setitem(WEIGHTINGS, "sure", Part(sureness))
    with pytest.raises(ValueError, match="say what it `compares`"):
        objective(LossConfig(weighting="sure"))


def test_what_shipped_entries_read_are_settings():
    read = {name for key in PART_SETTINGS for part in table(key).values() for name in part.reads}
    assert read == {"gamma", "alpha", "variant", "confidence", "lk_eta"}
    assert read <= LossConfig.model_fields.keys()


def objective(loss: LossConfig, supervised=(True, True, True, True)):
    label = torch.tensor([V1], dtype=torch.float64)
    # Right at .8, at .5 by order, wrong at .25 and .1.
    logits = torch.stack((label, 1 - label), dim=-1).log().requires_grad_()
    return block_objective(
        logits,
        torch.eye(2, dtype=torch.float64),
        torch.zeros(1, 4, dtype=torch.int64),
        torch.tensor([supervised]),
        torch.ones(1, dtype=torch.float64),
        loss,
    )


def test_an_entry_that_looks_ahead_sees_what_lies_behind_the_first_error(monkeypatch):
    monkeypatch.setitem(WEIGHTINGS, "later", Part(later_confidence))
    loss = LossConfig(weighting="later", support="until_first_error")
    total, statistics = objective(loss)
    # .5 + .25 + .1, .25 + .1, and .1 at the first error.
    assert statistics.weight.tolist() == pytest.approx([0.85, 0.35, 0.1, 0])
    expected = 0.85 * -math.log(0.8) + 0.35 * math.log(2) + 0.1 * math.log(4)
    assert total.item() == pytest.approx(expected, abs=1e-12)


def test_an_entry_that_does_not_look_ahead_spares_what_lies_behind_the_first_error(monkeypatch):
    monkeypatch.setitem(WEIGHTINGS, "twice", Part(twice, looks_ahead=False))
    loss = LossConfig(weighting="twice", support="until_first_error")
    total, statistics = objective(loss)
    assert statistics.positions.tolist() == [1, 1, 1, 0]
    assert total.item() == pytest.approx(2 * math.log(10), abs=1e-12)  # .8 * .5 * .25 = .1


def test_what_an_entry_gives_where_nothing_is_supervised_does_not_count(monkeypatch):
    def careless(predictions, loss):
        return torch.where(predictions.supervised, predictions.cross_entropy, math.nan)

    monkeypatch.setitem(WEIGHTINGS, "careless", Part(careless))
    monkeypatch.setitem(TOKEN_LOSSES, "careless", Part(careless))
    chosen = {"weighting": "careless", "token_loss": "careless"}
    total, statistics = objective(LossConfig(**chosen), (True, False, True, True))
    costs = [-math.log(q) for q in (0.8, 0.25, 0.1)]
    assert statistics.weight_sum.item() == pytest.approx(sum(costs), abs=1e-12)
    assert statistics.token_loss.sum().item() == pytest.approx(sum(costs), abs=1e-12)
    assert total.item() == pytest.approx(sum(cost**2 for cost in costs), abs=1e-12)
