import io
import json

import pytest

from dpace_loadtest.coordinator import CELL, DONE, PREPARED, READY, ROWS, SETUP, Coordinator
from dpace_loadtest.run_record import (
    CellRecord,
    RunRecord,
    read_record,
    write_failure,
    write_record,
)
from dpace_loadtest.saturation import saturation
from dpace_loadtest.scenario import ScenarioConfig
from dpace_serve.config import build_config
from dpace_serve.errors import ConfigError, LoadTestError


class Stage:
    """A coordinator with workers made of paper."""

    def __init__(self, num_workers=2, **values):
        self.clock = 100.0
        self.posted = []
        self.ends = []
        self.rows = io.StringIO()
        self.coordinator = Coordinator(
            "run",
            build_config(ScenarioConfig, {"duration_seconds": 1, **values}, source="test"),
            num_workers,
            self.rows,
            self,
            self.ends.append,
            now=lambda: self.clock,
        )

    def send(self, kind, message, worker):
        self.posted.append((kind, worker, message))

    def take(self, kind, worker, **message):
        self.coordinator.take(kind, message, worker)

    def new_posts(self):
        posted, self.posted = self.posted, []
        return posted

    def prepare(self, *workers):
        for worker in workers:
            self.take(READY, worker)
        for worker in workers:
            self.take(PREPARED, worker, prompts_sha256="h")


def row(outcome="ok", phase="measured", scheduled=1.0, sent=1.0):
    times = {"scheduled_seconds": scheduled, "sent_seconds": sent}
    return {"outcome": outcome, "phase": phase, **times}


def test_every_worker_gets_a_place_of_its_own_once_all_are_there():
    stage = Stage(num_workers=2)
    stage.take(READY, "x")
    stage.take(READY, "x")
    assert stage.new_posts() == []
    stage.take(READY, "y")
    posted = stage.new_posts()
    assert [(kind, worker) for kind, worker, _ in posted] == [(SETUP, "x"), (SETUP, "y")]
    assert [(one["worker"], one["num_workers"]) for _, _, one in posted] == [(0, 2), (1, 2)]
    # The scenario survives the way.
    sent = build_config(ScenarioConfig, posted[0][2]["scenario"], source="test")
    assert sent.duration_seconds == 1


def test_a_cell_begins_when_all_have_done_the_last():
    stage = Stage(arms=[{"name": "a"}, {"name": "b"}])
    stage.prepare("x", "y")
    cells = [message for kind, _, message in stage.new_posts() if kind == CELL]
    assert [(one["number"], one["elapsed_seconds"]) for one in cells] == [(0, 0), (0, 0)]
    stage.clock = 110.0
    stage.take(DONE, "x", number=0, cpu_share=0.2)
    assert stage.new_posts() == []
    stage.take(DONE, "y", number=0, cpu_share=0.6)
    cells = [message for _, _, message in stage.new_posts()]
    assert [(one["number"], one["elapsed_seconds"]) for one in cells] == [(1, 10), (1, 10)]
    stage.take(DONE, "x", number=1, cpu_share=0.1)
    stage.take(DONE, "y", number=1, cpu_share=0.1)
    (record,) = stage.ends
    assert [(one.arm, one.cpu_share) for one in record.cells] == [("a", 0.6), ("b", 0.1)]
    assert record.cells[0].end_seconds == 10.0


def test_rows_are_written_and_counted_for_their_cell():
    stage = Stage(num_workers=1)
    stage.prepare("x")
    late = [row(sent=1.004), row(outcome="refused", sent=1.002), row(phase="warm_up", sent=9.0)]
    stage.take(ROWS, "x", rows=late[:1])
    stage.take(ROWS, "x", rows=late[1:])
    stage.take(DONE, "x", number=0, cpu_share=0.5)
    assert [json.loads(line) for line in stage.rows.getvalue().splitlines()] == late
    ((cell,),) = [record.cells for record in stage.ends]
    assert (cell.num_requests, cell.num_failed) == (3, 1)
    assert cell.p99_send_lag_ms == pytest.approx(
        3.98
    )  # 2 + 0.99 * 2; the warm-up's 8 s do not count


def test_an_error_of_one_worker_ends_the_run_once():
    stage = Stage()
    stage.take(READY, "x")
    stage.take(READY, "y")
    stage.take(PREPARED, "x", error="no such file")
    stage.take(PREPARED, "y", error="no such file")
    stage.coordinator.fail("gone")
    assert stage.ends == ["no such file"]


def test_workers_with_other_prompts_end_the_run():
    stage = Stage()
    stage.take(READY, "x")
    stage.take(READY, "y")
    stage.take(PREPARED, "x", prompts_sha256="h")
    stage.take(PREPARED, "y", prompts_sha256="i")
    (reason,) = stage.ends
    assert "the workers must have the same prompts" in reason


def test_strangers_and_stale_messages_change_nothing():
    stage = Stage(num_workers=1)
    stage.prepare("x")
    stage.new_posts()
    stage.take(READY, "z")
    stage.take(ROWS, "z", rows=[row()])
    stage.take(DONE, "z", number=0, cpu_share=0.1)
    stage.take(DONE, "x", number=7, cpu_share=0.1)
    assert stage.new_posts() == []
    assert stage.rows.getvalue() == ""
    assert stage.ends == []


def cell_record(lag):
    return CellRecord("a", 4.0, 0, 0.0, 1.0, 10, 0, lag, 0.97)


def test_the_generator_is_saturated_above_the_limit_and_not_at_it():
    record = RunRecord(
        "run", 0.0, 1, "h", (cell_record(20.0), cell_record(None), cell_record(81.0))
    )
    assert saturation(record, 81.0) is None
    reason = saturation(record, 50.0)
    assert "must be at most 50 ms, was 81 ms at load 4 (busiest worker: 97 % of a core)" in reason


def test_a_record_survives_its_file_and_a_failure_says_why(tmp_path):
    record = RunRecord("run", 12.5, 2, "h", (cell_record(None), cell_record(3.0)))
    write_record(tmp_path / "record", record)
    assert read_record(tmp_path / "record") == record
    write_failure(tmp_path / "failed", "worker gone")
    with pytest.raises(LoadTestError, match="worker gone"):
        read_record(tmp_path / "failed")
    (tmp_path / "other").write_text("[]")
    with pytest.raises(ConfigError, match="no record of a load test"):
        read_record(tmp_path / "other")
