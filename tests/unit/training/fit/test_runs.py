import copy
import dataclasses
import json

import pytest
import torch
import yaml

from dpace_serve.config import load_config
from dpace_serve.drafter import checkpoint
from dpace_serve.errors import CheckpointError, ConfigError
from dpace_training.config import TrainConfig
from dpace_training.data.prepare import prepare
from dpace_training.drafter.model import BlockDrafter
from dpace_training.drafter.shape import drafter_config
from dpace_training.evaluation.compare import load_drafter
from dpace_training.fit import run
from dpace_training.fit.ranks import Ranks
from dpace_training.fit.resume import saved_states
from dpace_training.fit.trainer import Trainer


def fresh(config):
    return Trainer(config, prepare(config), Ranks())


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


def test_flex_attention_on_a_cpu_is_refused_before_the_target_works(build):
    config = build(fit__attention="flex")
    with pytest.raises(ConfigError, match="backward pass on a CPU"):
        run.train(config)
    assert not config.data.work.exists()


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
