import dataclasses
import json
from pathlib import Path

import pytest
import torch

from dpace_serve.config import build_config
from dpace_serve.errors import ConfigError
from dpace_training.fit.trainer import Trainer
from dpace_training.study import run as study_run
from dpace_training.study.config import StudyConfig
from dpace_training.study.run import run_study


def study(values, **changes):
    return run_study(
        build_config(StudyConfig, values | changes, source="the test"), torch.device("cpu")
    )


def test_every_arm_and_seed_is_trained_and_measured_once(values, monkeypatch):
    trained = []
    train = study_run.train
    monkeypatch.setattr(
        study_run, "train", lambda config: (trained.append(config.output), train(config))
    )
    study(values, seeds=[1])
    assert len(trained) == 2
    result = study(values)
    assert len(trained) == len(set(trained)) == 4
    assert [arm["name"] for arm in result["arms"]] == ["dpace", "auf"]
    assert result["arms"][0]["curve"][-1]["step"] == 2
    assert result["arms"][1]["sets"]["sampled"]["prompts"] == 3
    again = study(values)
    assert len(trained) == 4
    assert json.dumps(again) == json.dumps(result)


def test_another_held_out_set_does_not_reuse_old_figures(values):
    study(values, seeds=[0])
    fewer = {**values["held_out"]["greedy"], "max_documents": 2}
    with pytest.raises(ConfigError, match="were made with another greedy"):
        study(values, seeds=[0], held_out=values["held_out"] | {"greedy": fewer})


def test_runs_of_another_study_are_not_taken_for_its_own(values):
    study(values, seeds=[0])
    sharper = values["arms"] | {"dpace": {"recipe": "dpace", "alpha": 0.2}}
    with pytest.raises(ConfigError, match="a run of the study there were made with another set"):
        study(values, seeds=[0], arms=sharper)


def test_other_prompts_under_the_same_name_are_noticed(values):
    study(values, seeds=[0])
    prompts = Path(values["held_out"]["greedy"]["conversations"])
    prompts.write_text(prompts.read_text().replace("tell", "sing"))
    with pytest.raises(ConfigError, match="were made with another greedy"):
        study(values, seeds=[0])


def test_an_arm_may_train_longer_than_the_others(values):
    values["base"]["fit"] |= {"epochs": 3, "max_steps": 2}
    result = study(values, seeds=[0], steps={"auf": 3})
    assert {arm["name"]: arm["steps"] for arm in result["arms"]} == {"dpace": 2, "auf": 3}


def test_the_drafter_of_an_arm_may_have_specialists(values):
    specialists = {"auf": {"kind": "low_rank", "group_size": 2, "rank": 4}}
    result = study(values, seeds=[0], specialists=specialists)
    plain, own = result["arms"]
    # Three draft positions are two groups; 4 x 32 there and back in each.
    assert own["parameters"] - plain["parameters"] == 2 * 2 * 4 * 32
    assert own["objective"] == "auf, low_rank specialists of 2 positions"
    with pytest.raises(ConfigError, match="a run of the study there were made with another set"):
        study(values, seeds=[0])


@pytest.mark.parametrize("key", ["steps", "specialists"])
def test_what_is_set_for_an_arm_names_one_that_is_there(values, key):
    changed = {"steps": {"lk": 3}, "specialists": {"lk": {"kind": "last_layer"}}}[key]
    with pytest.raises(ConfigError, match=rf"{key} must name arms of the study, got \['lk'\]"):
        study(values, **{key: changed})


def test_more_steps_than_the_epochs_hold_are_refused(values):
    with pytest.raises(ConfigError, match=r"7 steps were asked for .* ends after 2\."):
        study(values, seeds=[0], steps={"auf": 7})


def test_held_out_prompts_are_read_as_their_input_section_says(values, write_jsonl):
    asked = write_jsonl("asked.jsonl", [{"question": f"ask {i}", "id": i} for i in range(3)])
    columns = {"format": "completion", "columns": {"prompt": "question"}}
    held_out = {
        "plain": {"conversations": str(asked), "max_new_tokens": 12, "input": columns},
    }
    result = study(values, seeds=[0], held_out=held_out)
    assert result["arms"][0]["sets"]["plain"]["prompts"] == 3
    other = {"plain": {**held_out["plain"], "input": {**columns, "invalid": "skip"}}}
    with pytest.raises(ConfigError, match="were made with another plain"):
        study(values, seeds=[0], held_out=other)


def test_keys_name_no_defaults_so_a_setting_added_later_leaves_old_runs_valid(values):
    study(values, seeds=[0])
    folder = Path(values["base"]["output"]) / "dpace" / "seed-0"
    held_out = json.loads((folder / "held_out.key.json").read_text())["greedy"]
    assert held_out.keys() == {"conversations", "max_new_tokens", "text"}
    settings = json.loads((folder / "run.key.json").read_text())["settings"]
    assert settings["loss"] == {"recipe": "dpace"}
    assert settings["fit"].keys() == {"epochs", "batch_size", "num_anchors"}


def test_a_run_that_was_killed_while_it_wrote_its_end_is_finished_without_a_step(
    values, monkeypatch
):
    expected = study(values, seeds=[0])
    folder = Path(values["base"]["output"]) / "dpace" / "seed-0"
    whole = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    # The weights are there, what says that the run has ended is not.
    (folder / "training.json").unlink()
    (folder / "held_out.json").unlink()

    def no_step(trainer):
        raise AssertionError("a step was taken")

    monkeypatch.setattr(Trainer, "train_step", no_step)
    assert json.dumps(study(values, seeds=[0])) == json.dumps(expected)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == whole


def never(config):
    raise AssertionError("a run was trained")


def test_answers_too_short_to_draft_are_refused_before_anything_is_loaded(values, monkeypatch):
    monkeypatch.setattr(study_run, "train", never)
    short = values["held_out"]["greedy"] | {"max_new_tokens": 1}
    with pytest.raises(ConfigError, match=r"held_out.greedy.max_new_tokens: .* or equal to 2"):
        study(values, held_out={"greedy": short})


def test_a_held_out_set_without_a_draft_is_refused_before_the_first_run(values, monkeypatch):
    # Every token ends an answer, so each has one token.
    load_target = study_run.load_target
    monkeypatch.setattr(
        study_run,
        "load_target",
        lambda *args, **kwargs: dataclasses.replace(
            load_target(*args, **kwargs), end_ids=frozenset(range(259))
        ),
    )
    monkeypatch.setattr(study_run, "train", never)
    with pytest.raises(ConfigError, match=r"tell.jsonl: no answer of the target has a second tok"):
        study(values)
