"""Which requests are kept, as what, and what is counted instead of failing."""

import json
import signal
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dpace_serve.errors import ConfigError
from dpace_serve.live.capture import CapturedRequest, CaptureWriter, is_refused
from dpace_serve.serve_config import CaptureConfig

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def request(**changes):
    facts = {
        "prompt_token_ids": [5, 6, 7],
        "output_token_ids": [8, 9],
        "finish_reason": "stop",
        "workload": "code",
        "model": "target",
        "drafter": "dpace",
        "revision": "0a1b",
        "temperature": 0.5,
    }
    return CapturedRequest(**facts | changes)


@pytest.fixture
def capture(tmp_path):
    writers = []

    def make(**settings):
        config = CaptureConfig(folder=tmp_path / "kept", workloads=("code", "other"), **settings)
        lost = []
        writers.append(CaptureWriter(config, lost.append, now=lambda: NOON))
        return writers[-1], lost

    yield make
    for writer in writers:
        writer.close(timeout_seconds=10.0)


def records(folder):
    return [
        json.loads(line)
        for path in sorted(folder.iterdir())
        for line in path.read_text().splitlines()
    ]


def test_a_request_is_one_line_of_token_ids_and_facts(capture, tmp_path):
    writer, lost = capture()
    prompt = [5, 6, 7]
    writer.write(request(prompt_token_ids=prompt))
    prompt.clear()  # the engine goes on with its own list
    writer.close(timeout_seconds=10.0)
    (path,) = (tmp_path / "kept").iterdir()
    assert path.name == "capture-00000.jsonl"
    assert path.read_text() == (
        '{"prompt_token_ids":[5,6,7],"output_token_ids":[8,9],"finish_reason":"stop",'
        '"workload":"code","model":"target","drafter":"dpace","revision":"0a1b",'
        '"temperature":0.5,"time":"2026-11-23T12:00:00.000+00:00"}\n'
    )
    assert lost == []


@pytest.mark.parametrize(
    ("workload", "refused", "finish_reason", "is_wanted"),
    [
        ("code", False, "stop", True),
        ("other", False, "length", True),
        ("json", False, "stop", False),  # not in the list
        ("code", True, "stop", False),
        ("code", False, "abort", False),
        ("code", False, "error", False),
        ("code", False, None, False),
    ],
)
def test_only_whole_answers_of_allowed_workloads_are_wanted(
    capture, workload, refused, finish_reason, is_wanted
):
    writer, _ = capture()
    assert writer.wants(workload, refused=refused, finish_reason=finish_reason) is is_wanted


def test_what_may_be_kept_is_known_when_a_request_arrives(capture):
    writer, _ = capture()
    assert writer.allows("code", refused=False)
    assert not writer.allows("json", refused=False)
    assert not writer.allows("code", refused=True)


@pytest.mark.parametrize("value", [0, 0.0, False, "0", "no", "false", "off", "", "nope", None, [1]])
def test_any_value_but_an_explicit_yes_refuses(value):
    assert is_refused({"dpace_capture": value})


@pytest.mark.parametrize("value", [1, 1.0, True, "1", "Yes", " true ", "on"])
def test_an_explicit_yes_does_not(value):
    assert not is_refused({"dpace_capture": value})


@pytest.mark.parametrize("extra_args", [None, {}, {"dpace_workload": "code"}])
def test_saying_nothing_does_not_refuse(extra_args):
    assert not is_refused(extra_args)


def test_a_request_longer_than_allowed_is_counted_and_not_cut(capture, tmp_path):
    writer, lost = capture(max_tokens=5)
    writer.write(request())
    writer.write(request(output_token_ids=[8, 9, 10]))
    writer.close(timeout_seconds=10.0)
    assert lost == ["too_long"]
    assert [kept["output_token_ids"] for kept in records(tmp_path / "kept")] == [[8, 9]]


def test_a_full_folder_takes_no_more_and_loses_nothing_that_it_holds(capture, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "capture-00000.jsonl").write_bytes(b" " * 999_900)
    writer, lost = capture(max_megabytes=1)
    writer.write(request())  # a line of about 200 bytes
    writer.close(timeout_seconds=10.0)
    assert lost == ["limit_reached"]
    assert [path.stat().st_size for path in (tmp_path / "kept").iterdir()] == [999_900]


def test_files_are_begun_anew_by_their_size(capture, tmp_path):
    writer, lost = capture(max_file_megabytes=1)
    for _ in range(3):
        writer.write(request(prompt_token_ids=[4_000_000_000] * 16_000))  # 11 bytes a token
        writer.write(request(prompt_token_ids=[4_000_000_000] * 16_000, temperature=1.0))
        writer.write(request(prompt_token_ids=[4_000_000_000] * 16_000, temperature=0.0))
        writer.write(request(prompt_token_ids=[4_000_000_000] * 16_000, temperature=0.1))
    writer.close(timeout_seconds=10.0)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "kept").iterdir())]
    assert lost == []
    # Five lines of 176,200 bytes each fit into a megabyte.
    assert [round(size / 176_200) for size in sizes] == [5, 5, 2]


def test_a_folder_that_cannot_be_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    config = CaptureConfig(folder=tmp_path / "file", workloads=("code",))
    with pytest.raises(ConfigError, match=r"capture\.folder must be .* \(File exists\)\. Choose"):
        CaptureWriter(config, print)


WRITE_UNTIL_KILLED = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from dpace_serve.serve_config import CaptureConfig
    from dpace_serve.live.capture import CapturedRequest, CaptureWriter

    config = CaptureConfig(folder=Path(sys.argv[1]), workloads=("code",))
    writer = CaptureWriter(config, lambda reason: None)
    for number in range(10**9):
        writer.write(CapturedRequest([number] * 3000, [number], "stop", "code", "m", "d", "r", 0.0))
    """
)


def test_a_killed_process_leaves_whole_lines_and_at_most_one_torn_at_the_end(capture, tmp_path):
    folder = tmp_path / "kept"
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITE_UNTIL_KILLED, str(folder)])
        try:
            grows = time.monotonic() + 30.0
            own = set(folder.iterdir()) if folder.exists() else set()
            while not _written(folder, own) and time.monotonic() < grows:
                time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    writer, _ = capture()
    writer.write(request())
    writer.close(timeout_seconds=10.0)
    files = sorted(folder.iterdir())
    assert len(files) == 4
    for path in files[:3]:
        whole = path.read_bytes().split(b"\n")[:-1]
        assert whole
        numbers = [json.loads(line)["output_token_ids"][0] for line in whole]
        assert numbers == sorted(set(numbers))
    assert [len(json.loads(line)) for line in files[3].read_text().splitlines()] == [9]


def _written(folder: Path, own: set[Path]) -> int:
    if not folder.exists():
        return 0
    return sum(path.stat().st_size for path in set(folder.iterdir()) - own)
