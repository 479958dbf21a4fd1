"""The acceptance log: every record a line, nobody waits, and every loss is counted."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.errors import ConfigError
from dpace_serve.live.acceptance_log import AcceptanceLog
from dpace_serve.live.rotating_file import RotatingFile
from dpace_serve.serve_config import AcceptanceLogConfig

NOON = datetime(2026, 11, 23, 12, 0, 0, 250_000, tzinfo=UTC)

ENDLESS_WRITER = """
import sys, time
from pathlib import Path
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.serve_config import AcceptanceLogConfig
from dpace_serve.live.acceptance_log import AcceptanceLog

log = AcceptanceLog.open(
    AcceptanceLogConfig(path=Path(sys.argv[1]), max_megabytes=1, keep_files=50),
    on_lost=lambda count: None,
)
number = 0
while True:
    log.write(RequestAcceptance(
        str(number), "dpace", "1", "champion", "json",
        (1,) * 50, (7,) * 50, 100, 0, 0, finish_reason="stop",
    ))
    number += 1
    time.sleep(0)
"""


class Losses:
    def __init__(self):
        self.total = 0
        self._lock = threading.Lock()

    def __call__(self, count):
        with self._lock:
            self.total += count


@pytest.fixture
def losses():
    return Losses()


def record(request_id="r", steps=2):
    return RequestAcceptance(
        request_id, "dpace", "1", "champion", "json",
        (1,) * steps, (7,) * steps, 2 * steps, 0, 0, finish_reason="stop",
    )  # fmt: skip


def log_at(path, losses, *, max_bytes=10**6, max_waiting=10_000):
    file = RotatingFile(path, max_bytes=max_bytes, keep_files=3, fsync="never")
    return AcceptanceLog(file, max_waiting=max_waiting, on_lost=losses, now=lambda: NOON)


def request_ids(text):
    return [json.loads(line)["request_id"] for line in text.splitlines()]


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_each_record_is_a_line_with_its_time_that_reads_back(tmp_path, losses):
    excluded = RequestAcceptance.from_exclusion(
        "aborted",
        request_id='two\nlines "quoted" \ud800',
        drafter="dpace",
        revision="1",
        arm="challenger",
        workload="other",
        finish_reason="abort",
    )
    log = log_at(tmp_path / "log", losses)
    log.write(record())
    log.write(excluded)
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [row.pop("time") for row in rows] == ["2026-11-23T12:00:00.250+00:00"] * 2
    assert [RequestAcceptance.from_dict(row) for row in rows] == [record(), excluded]
    assert losses.total == 0


def test_closing_writes_what_waits_and_further_records_are_lost(tmp_path, losses):
    log = log_at(tmp_path / "log", losses)
    for number in range(2_000):
        log.write(record(str(number)))
    log.close()
    log.close()
    assert request_ids((tmp_path / "log").read_text()) == [str(n) for n in range(2_000)]
    log.write(record())
    assert losses.total == 1
    assert len((tmp_path / "log").read_text().splitlines()) == 2_000


def test_records_of_several_threads_are_all_written_each_threads_in_order(tmp_path, losses):
    log = log_at(tmp_path / "log", losses)

    def produce(name):
        for number in range(400):
            log.write(record(f"{name}-{number}"))

    threads = [threading.Thread(target=produce, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    written = request_ids((tmp_path / "log").read_text())
    for name in range(6):
        mine = [each for each in written if each.startswith(f"{name}-")]
        assert mine == [f"{name}-{number}" for number in range(400)]
    assert len(written) == 6 * 400
    assert losses.total == 0


def test_records_go_on_over_full_files(tmp_path, losses):
    log = log_at(tmp_path / "log", losses, max_bytes=2_000)
    for number in range(20):
        log.write(record(f"{number:03d}"))
    log.close()
    names = ["log.3", "log.2", "log.1", "log"]
    sizes = [(tmp_path / name).stat().st_size for name in names]
    assert max(sizes) <= 2_000
    kept = [each for name in names for each in request_ids((tmp_path / name).read_text())]
    assert kept == [f"{number:03d}" for number in range(20 - len(kept), 20)]
    assert len(kept) > 12


def test_a_full_disk_is_counted_said_once_and_never_raised(losses, caplog):
    log = log_at(Path("/dev/full"), losses)
    for _ in range(50):
        log.write(record())
    log.close()
    assert losses.total == 50
    assert len(caplog.records) == 1
    assert "No space left on device" in caplog.text


class FlakyFile:
    """Refuses some lines, each in its own way."""

    def __init__(self, errors):
        self.errors = errors
        self.lines = []

    def write(self, line):
        error = self.errors.pop(0)
        if error is not None:
            raise error
        self.lines.append(line)

    def close(self):
        raise OSError("not stored")


def test_writing_goes_on_after_any_error_and_says_so(losses, caplog):
    file = FlakyFile([None, OSError("full"), ValueError("odd"), None, OSError("full"), None])
    log = AcceptanceLog(file, max_waiting=10, on_lost=losses, now=lambda: NOON)
    for number in range(6):
        log.write(record(str(number)))
    log.close()
    assert request_ids("\n".join(file.lines)) == ["0", "3", "5"]
    assert losses.total == 3
    said = [entry.message.removeprefix("acceptance log: ")[:33] for entry in caplog.records]
    assert said == [
        "a line was not written (disk erro",
        "a line was not written (bad line:",
        "lines are written again",
        "a line was not written (disk erro",
        "lines are written again",
        "its end may not outlive a power c",
    ]


@pytest.fixture
def blocked_pipe(tmp_path):
    """A pipe that nobody reads: its writer waits once it is full."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, reader
    os.close(reader)


def read_to_the_end(reader, log):
    closing = threading.Thread(target=log.close)
    closing.start()
    os.set_blocking(reader, True)
    parts = []
    while part := os.read(reader, 1 << 16):
        parts.append(part)
    closing.join()
    return b"".join(parts).decode()


def test_while_the_disk_hangs_nobody_waits_and_what_is_too_much_is_lost(blocked_pipe, losses):
    path, reader = blocked_pipe
    log = log_at(path, losses, max_waiting=20)
    log.write(record("long", steps=50_000))  # far more than the pipe holds
    wait_for(log._writer._waiting.empty)
    start = time.monotonic()
    for number in range(2_000):
        log.write(record(str(number)))
    assert time.monotonic() - start < 5
    assert losses.total == 2_000 - 20
    written = request_ids(read_to_the_end(reader, log))
    assert written == ["long", *(str(number) for number in range(20))]


def test_closing_gives_up_on_a_disk_that_hangs_and_counts_what_is_left(blocked_pipe, losses):
    path, reader = blocked_pipe
    log = log_at(path, losses, max_waiting=10)
    log.write(record(steps=50_000))
    wait_for(log._writer._waiting.empty)
    for number in range(15):
        log.write(record(str(number)))
    assert losses.total == 5
    start = time.monotonic()
    log.close(timeout_seconds=0.2)
    assert time.monotonic() - start < 5
    assert losses.total == 15
    os.set_blocking(reader, True)
    while os.read(reader, 1 << 16):  # until the thread has closed its end
        pass
    log._writer._thread.join(5)
    assert not log._writer._thread.is_alive()


def test_a_killed_server_tears_at_most_its_last_line_and_the_next_begins_behind_it(
    tmp_path, losses
):
    path = tmp_path / "log"
    with subprocess.Popen([sys.executable, "-c", ENDLESS_WRITER, path]) as writer:
        wait_for((tmp_path / "log.2").exists)
        writer.send_signal(signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL
    numbered = sorted(tmp_path.glob("log.*"), key=lambda file: -int(file.suffix[1:]))
    lines = "".join(file.read_text() for file in [*numbered, *tmp_path.glob("log")]).split("\n")
    ids = [int(json.loads(line)["request_id"]) for line in lines[:-1]]
    assert ids == sorted(set(ids))
    assert len(ids) > 3_000  # two files of 1 MB

    path.write_text((path.read_text() if path.exists() else "") + '{"time": "torn')
    log = log_at(path, losses)
    log.write(record("after"))
    log.close()
    assert request_ids(path.read_text().splitlines()[-1]) == ["after"]


def test_the_log_is_opened_as_configured(tmp_path, losses):
    config = AcceptanceLogConfig(path=tmp_path / "log", max_megabytes=1, keep_files=1)
    log = AcceptanceLog.open(config, on_lost=losses)
    for number in range(3_000):
        log.write(record(str(number), steps=100))
        if number % 500 == 0:
            wait_for(log._writer._waiting.empty)
    log.close()
    sizes = {entry.name: entry.stat().st_size for entry in tmp_path.iterdir()}
    assert set(sizes) == {"log", "log.1"}
    assert 990_000 < sizes["log.1"] <= 1_000_000
    last = json.loads((tmp_path / "log").read_text().splitlines()[-1])
    assert last["request_id"] == "2999"
    came = datetime.fromisoformat(last["time"])
    assert abs((datetime.now(UTC) - came).total_seconds()) < 60
    assert losses.total == 0


def test_a_log_that_cannot_be_opened_is_one_clear_line(tmp_path, losses):
    config = AcceptanceLogConfig(path=tmp_path / "none" / "log")
    message = re.escape(f"got {config.path} (No such file or directory). Create its folder")
    with pytest.raises(ConfigError, match=message):
        AcceptanceLog.open(config, on_lost=losses)
