import pytest
import torch

from dpace_serve.config import build_config
from dpace_serve.errors import CheckpointError
from dpace_training.bench import step_time
from dpace_training.evaluation.compare import load_drafter
from dpace_training.study.config import StudyConfig
from dpace_training.study.run import run_study


def test_the_arms_of_a_study_start_from_the_drafter_of_its_baseline(values, tmp_path):
    study = build_config(StudyConfig, values, source="the test")
    run_study(study, torch.device("cpu"))
    baseline = load_drafter(study.run("dpace", 0).output)
    trainers = step_time.study_arms(study, tmp_path / "new")
    assert list(trainers) == ["dpace", "auf"]
    for trainer in trainers.values():
        expected, found = baseline.state_dict(), trainer.drafter.state_dict()
        assert all(found[name].equal(weight) for name, weight in expected.items())
    result = step_time.compare(trainers, "dpace", rounds=3)
    assert result["steps"]["dpace"]["ratio"] == {"median": 1, "low": 1, "high": 1}
    assert result["steps"]["auf"]["seconds"] > 0


def test_a_study_that_has_not_been_run_is_refused(values, tmp_path):
    study = build_config(StudyConfig, values, source="the test")
    with pytest.raises(CheckpointError, match="dpace/seed-0"):
        step_time.study_arms(study, tmp_path / "new")
