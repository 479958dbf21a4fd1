import json

import pytest
import torch

from dpace_training.fit.tracking import LOG_FILE, TrainingLog, statistics_record
from dpace_training.losses.config import LossConfig
from dpace_training.losses.objective import block_objective
from dpace_training.losses.statistics import ObjectiveStatistics


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def test_a_position_that_nobody_looked_at_is_null_in_the_log(tmp_path):
    # Token 0 is the label and token 1 the draft, so accept-until-fail ends at position 1.
    hidden = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    labels, supervised = torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.bool)
    loss = LossConfig(recipe="auf")
    _, statistics = block_objective(hidden, torch.eye(2), labels, supervised, torch.ones(1), loss)
    TrainingLog(tmp_path / LOG_FILE, resumed_step=0).write(
        {"step": 1, **statistics_record(statistics)}
    )
    record = json.loads((tmp_path / LOG_FILE).read_text(), parse_constant=refuse)
    assert record["accuracy"] == [0, None]
    assert record["token_loss"] == [pytest.approx(1.313262, abs=1e-6), None]
    assert record["weight_share"] == [1, 0]


def test_statistics_of_no_block_at_all_are_null():
    record = statistics_record(ObjectiveStatistics.zero(2, torch.device("cpu")))
    assert record["leading_run"] is None
    assert record["confidence"] == [None, None]


def test_a_number_that_json_cannot_hold_is_refused_and_leaves_no_half_line(tmp_path):
    log = TrainingLog(tmp_path / LOG_FILE, resumed_step=0)
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.write({"step": 1, "loss": float("nan")})
    assert (tmp_path / LOG_FILE).read_text() == ""
