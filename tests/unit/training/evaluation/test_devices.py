"""Evaluation on another device and in another number format."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import dpace_training.device
from dpace_serve.acceptance.counts import AcceptanceCounts
from dpace_serve.cli import app as serve_app
from dpace_serve.config import build_config, load_config
from dpace_serve.errors import ConfigError
from dpace_training.cli import app
from dpace_training.data.prepare import prepare
from dpace_training.data.target_model import load_target
from dpace_training.evaluation import compare, doctor
from dpace_training.evaluation.compare import compare_drafters, load_drafter
from dpace_training.evaluation.config import ComparisonConfig
from dpace_training.evaluation.decode import decode
from dpace_training.evaluation.doctor import examine_by_replay
from dpace_training.evaluation.held_out import held_out_prompts
from dpace_training.study import run as study_run
from dpace_training.study.config import StudyConfig

from .second_device import Remote, second_device  # noqa: TID252 - tests have no package

CPU = torch.device("cpu")
LIMIT = 24


def evaluated(config, device, **settings):
    settings = {"max_new_tokens": LIMIT} | settings
    prompts = ComparisonConfig(conversations=config.data.conversations, **settings)
    return compare_drafters(
        config.target, [config.output], prompts, device=device, answers=None, store=None
    )


def test_the_accelerator_is_taken_when_there_is_one(monkeypatch):
    assert dpace_training.device.available_device() == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert dpace_training.device.available_device() == torch.device("cuda")


def test_the_second_device_of_these_tests_notices_a_forgotten_move():
    with second_device() as device:
        there, here = torch.ones(2, 2).to(device), torch.ones(2, 2)
        assert (there.device, here.device, (2 * there).cpu().device) == (device, CPU, CPU)
        with pytest.raises(RuntimeError, match="tensors of two devices"):
            there @ here


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_another_device_measures_the_same(made, temperature):
    config, _ = made
    few = {"temperature": temperature, "max_documents": 2, "max_new_tokens": 12}
    with second_device() as device:
        there = evaluated(config, device, **few)
    assert there == evaluated(config, CPU, **few)
    assert there["arms"][0]["steps"] > 2


def test_hidden_states_wait_in_main_memory_wherever_the_target_is(made):
    config, _ = made
    documents = prepare(config).held_out
    with second_device() as device:
        target = load_target(config.target, dtype=torch.float32, device=device)
        assert target.model.device == device
        prompts = held_out_prompts(target, documents, (1, 3), batch_size=4)
        rollouts = [prompt.rollout for prompt in prompts]
    assert not any(isinstance(rollout.taps, Remote) for rollout in rollouts)
    assert not any(isinstance(rollout.token_ids, Remote) for rollout in rollouts)


def test_the_doctor_finds_the_same_on_another_device(made):
    config, _ = made
    prompts = ComparisonConfig(
        conversations=config.data.conversations, max_documents=2, max_new_tokens=8
    )
    with second_device() as device:
        there = examine_by_replay(config.target, config.output, prompts, device=device)
    assert there == examine_by_replay(config.target, config.output, prompts, device=CPU)


class SeenError(ConfigError):
    """Ends a command where its device is known."""


@pytest.mark.parametrize("command", ["eval", "doctor", "study"])
def test_every_measuring_command_takes_the_device_that_there_is(
    made, command, monkeypatch, write_jsonl, tmp_path
):
    config, _ = made
    found = []

    def see(*args, **kwargs):
        found.append(kwargs.get("device", args[-1]))
        raise SeenError("seen")

    monkeypatch.setattr(dpace_training.device, "available_device", lambda: torch.device("meta"))
    monkeypatch.setattr(compare, "compare_drafters", see)
    monkeypatch.setattr(doctor, "examine_by_replay", see)
    monkeypatch.setattr(study_run, "run_study", see)
    of_models = [f"--target={config.target}", f"--drafter={config.output}"]
    prompts = config.data.conversations
    study = tmp_path / "study.yaml"
    study.write_text(json.dumps(study_values(config, tmp_path)))
    used, arguments = {
        "eval": (app, ["eval", *of_models, f"--prompts={prompts}"]),
        "doctor": (serve_app, ["doctor", *of_models, f"--replay={prompts}"]),
        "study": (app, ["study", str(study)]),
    }[command]
    assert isinstance(CliRunner().invoke(used, arguments).exception, SeenError)
    assert found == [torch.device("meta")]


def study_values(config, folder, **settings):
    prompts = str(config.data.conversations)
    base = config.model_dump(mode="json", exclude_defaults=True)
    base |= {
        "output": str(folder / "study"),
        "drafter": base["drafter"] | {"init_from": str(config.output)},
        "fit": {"epochs": 1, "batch_size": 6, "allow_tail": True},
        "evaluation": {},
    }
    return {
        "base": base,
        "arms": {"dpace": {"recipe": "dpace"}},
        "baseline": "dpace",
        "seeds": [0],
        "held_out": {
            "greedy": {"conversations": prompts, "max_new_tokens": LIMIT, "max_documents": 3}
        },
        **settings,
    }


def measured_study(config, folder, device, **settings):
    """The acceptance of a trained arm, measured anew."""
    study = build_config(StudyConfig, study_values(config, folder, **settings), source="the test")
    for kept in Path(study.base.output).glob("**/held_out*"):
        kept.unlink()
    return study_run.run_study(study, device)["arms"][0]["sets"]["greedy"]


def test_a_study_measures_the_same_on_another_device(made, tmp_path):
    config, _ = made
    here = measured_study(config, tmp_path, CPU)
    with second_device() as device:
        assert measured_study(config, tmp_path, device) == here
    assert here["tau"] > 1


def decoded_counts(config, dtype):
    """The plain draft-verify loop over all prompts, everything in one number format."""
    target = load_target(config.target, dtype=dtype)
    drafter = load_drafter(config.output).to(dtype)
    counts = []
    for document in prepare(config).held_out:
        prompt = torch.tensor(document.token_ids[: document.answer_start])
        answer = decode(
            target.model, drafter, prompt, max_tokens=LIMIT, end_ids=target.end_ids
        ).settled()
        counts.append(
            AcceptanceCounts.from_steps(
                answer.per_step_accepted, answer.per_step_drafted, 3, answer.emitted_tokens
            )
        )
    return sum(counts[1:], start=counts[0])


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_an_evaluation_counts_what_decoding_counts_in_its_number_format(made, name):
    config, _ = made
    result = evaluated(config, CPU, dtype=name)
    expected = decoded_counts(config, getattr(torch, name))
    (arm,) = result["arms"]
    assert result["dtype"] == name
    assert arm["steps"] == expected.steps
    assert arm["tau"] == pytest.approx(expected.tau, abs=1e-6)
    assert arm["accepted_per_position"] == pytest.approx(expected.rates(), abs=1e-6)


def test_target_and_drafter_compute_in_the_number_format_that_is_asked_for(made):
    config, _ = made
    seen = []
    measure = compare.measure_acceptance
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            compare,
            "measure_acceptance",
            lambda name, drafter, prompts, **weights: (
                seen.extend([drafter.fc.weight, prompts[0].rollout.taps, *weights.values()]),
                measure(name, drafter, prompts, **weights),
            )[1],
        )
        evaluated(config, CPU, dtype="bfloat16")
    assert [tensor.dtype for tensor in seen] == [torch.bfloat16] * 4


def test_the_doctor_measures_in_the_number_format_of_its_settings(made):
    config, _ = made
    arguments = ["doctor", f"--target={config.target}", f"--drafter={config.output}"]
    replay = [f"--replay={config.data.conversations}", f"--set=max_new_tokens={LIMIT}"]
    shown = CliRunner().invoke(serve_app, [*arguments, *replay, "--set=dtype=bfloat16"])
    assert "drafts in a row are right" in shown.output
    wrong = CliRunner().invoke(serve_app, [*arguments, *replay, "--set=dtype=int8"])
    assert "dtype" in str(wrong.exception)
    without = CliRunner().invoke(serve_app, [*arguments, "--set=dtype=bfloat16"])
    assert str(without.exception) == (
        "--set sets how --replay measures. Add --replay PROMPTS or drop --set."
    )


def test_every_reading_of_the_doctor_computes_like_the_given_drafter(made):
    config, _ = made
    target = load_target(config.target, dtype=torch.bfloat16)
    drafter = load_drafter(config.output).bfloat16()
    replays = doctor._Replays(target, drafter, prepare(config).held_out, batch_size=6)
    accepted = sum(pair[0] for pair in replays.pairs(drafter.config))
    assert accepted > 0


def test_a_study_in_another_number_format_needs_a_folder_of_its_own(made, tmp_path):
    config, _ = made
    measured_study(config, tmp_path, CPU)
    with pytest.raises(ConfigError, match="made with another target_dtype"):
        measured_study(config, tmp_path, CPU, dtype="bfloat16")
    shutil.rmtree(tmp_path / "study")
    assert measured_study(config, tmp_path, CPU, dtype="bfloat16")["tau"] > 1
    key = json.loads(next((tmp_path / "study").glob("**/held_out.key.json")).read_text())
    assert key["dtype of target and drafter"] == "bfloat16"


def test_an_unknown_number_format_is_one_line():
    with pytest.raises(ConfigError, match="dtype") as refused:
        load_config(ComparisonConfig, None, ["dtype=int8"])
    assert "\n" not in str(refused.value)
