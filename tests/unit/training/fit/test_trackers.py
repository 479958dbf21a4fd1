import json

import pytest
from accelerate import tracking as accelerate_tracking
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dpace_serve.config import build_config
from dpace_serve.errors import ConfigError
from dpace_training.config import FitConfig
from dpace_training.fit.trackers import require_trackers, scalars, tracked_log


def record(step, loss):
    return {"step": step, "loss": loss, "weight_share": [0.75, 0.25]}


def curve(output, name):
    events = EventAccumulator(str(output / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_numbers_keep_the_names_of_the_log():
    evaluation = {"tau": 1.5, "name": "dpace", "workloads": {"json": {"prompts": 3, "tau": None}}}
    assert scalars({**record(2, 4.0), "evaluation": evaluation}) == {
        "loss": 4.0,
        "weight_share/1": 0.75,
        "weight_share/2": 0.25,
        "evaluation/tau": 1.5,
        "evaluation/workloads/json/prompts": 3.0,
    }


def test_tensorboard_and_the_log_hold_the_same(tmp_path):
    with tracked_log(tmp_path, ("tensorboard",), resumed_step=0) as log:
        log.write(record(2, 4.0))
        log.write(record(4, 3.0))
        log.write({"step": 4, "evaluation": {"tau": 1.5}})
    assert curve(tmp_path, "loss") == [(2, 4.0), (4, 3.0)]
    assert curve(tmp_path, "weight_share/2") == [(2, 0.25), (4, 0.25)]
    assert curve(tmp_path, "evaluation/tau") == [(4, 1.5)]
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 4]


def test_a_resumed_run_continues_the_curve(tmp_path):
    def cut_run():
        with tracked_log(tmp_path, ("tensorboard",), resumed_step=0) as log:
            log.write(record(2, 4.0))
            log.write(record(4, 3.0))
            log.write(record(6, 99.0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_run()
    # Saved at step 4: step 6 is taken again.
    with tracked_log(tmp_path, ("tensorboard",), resumed_step=4) as log:
        log.write(record(6, 2.0))
    assert curve(tmp_path, "loss") == [(2, 4.0), (4, 3.0), (6, 2.0)]
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [4.0, 3.0, 2.0]


def test_without_trackers_there_is_the_log_alone(tmp_path):
    with tracked_log(tmp_path, (), resumed_step=0) as log:
        log.write(record(2, 4.0))
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_another_tracker_of_accelerate_gets_the_same_and_is_closed(tmp_path, monkeypatch):
    calls = []

    class Recorder(accelerate_tracking.GeneralTracker):
        requires_logging_directory = False
        main_process_only = False

        def __init__(self, project):
            super().__init__(_blank=True)
            calls.append(("project", project))

        def start(self):
            calls.append("start")

        def log(self, values, step):
            calls.append((step, values))

        def finish(self):
            calls.append("finish")

    monkeypatch.setitem(accelerate_tracking.LOGGER_TYPE_TO_CLASS, "trackio", Recorder)
    output = tmp_path / "drafter"
    output.mkdir()
    with tracked_log(output, ("trackio",), resumed_step=0) as log:
        log.write({"step": 2, "loss": 4.0})
    assert calls == [("project", "drafter"), "start", (2, {"loss": 4.0}), "finish"]


def test_a_tracker_that_is_not_installed_is_refused():
    require_trackers(("tensorboard",))
    with pytest.raises(ConfigError, match=r"fit\.trackers: wandb is not installed\. Install it"):
        require_trackers(("wandb",))


@pytest.mark.parametrize(
    ("trackers", "said"),
    [
        (["tensorboard", "tensorboard"], "trackers must differ"),
        (["nonesuch"], "should be 'aim', 'comet_ml'"),
    ],
)
def test_wrong_trackers_in_the_configuration_are_refused(trackers, said):
    with pytest.raises(ConfigError, match=said):
        build_config(FitConfig, {"trackers": trackers}, source="the test")
