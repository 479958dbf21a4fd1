import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from dpace_serve.config import load_config
from dpace_serve.demo.plan import DemoModels, serve_command, serve_configs
from dpace_serve.demo.run import run_demo
from dpace_serve.demo.settings import DemoSettings
from dpace_serve.errors import ConfigError, EngineError
from dpace_serve.serve_config import ServeConfig

FAKE_SERVER = Path(__file__).parent / "fake_server.py"


@pytest.fixture
def models(tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    chat = {"role": "user", "content": "What has thirteen letters?"}
    right = {"role": "assistant", "content": "thirteen char"}
    lines = [
        {"workload": "json", "messages": [chat, right]},
        {"workload": "code", "prompt": "import "},
    ]
    prompts.write_text("\n".join(json.dumps(line) for line in lines * 3))
    return DemoModels(
        target=tmp_path / "target",
        drafters={"dflash": tmp_path / "dflash", "dpace": tmp_path / "dpace"},
        prompts=prompts,
    )


def fake_command(behaviour):
    def command(config):
        drafter = config.drafter_name or "none"
        return [sys.executable, str(FAKE_SERVER), str(config.port), drafter, behaviour]

    return command


def run(models, behaviour="good", show=lambda result, url: None, **settings):
    progress = io.StringIO()
    values = {"prompts_per_workload": 2, "stop_timeout_seconds": 5, "records_timeout_seconds": 0}
    result = run_demo(
        models,
        DemoSettings(**{**values, **settings}),
        command=fake_command(behaviour),
        progress_console=Console(file=progress),
        show=show,
    )
    return result, progress.getvalue()


def test_the_demo_measures_every_arm_through_its_server(models):
    shown = []
    result, progress = run(models, show=lambda *given: shown.append(given))
    none, dflash, dpace = result.arms
    assert none.drafting is None
    assert (dflash.name, dflash.drafting.overall.tau) == ("dflash", 2.0)  # 6 steps, 6 accepted
    assert (dpace.name, dpace.drafting.overall.tau) == ("dpace", 3.0)  # 4 steps, 8 accepted
    assert dpace.drafting.accepted_per_position == (1.0, 1.0, 0.0)
    assert dpace.drafting.overall.steps == 16  # 4 prompts: warm-up requests are left out
    assert list(dpace.drafting.by_workload) == ["json", "code"]
    assert result.paired[0].ratio.ratio == 1.5
    assert result.is_lossless
    assert result.compared == "tokens"
    assert result.block_size == 4
    assert (result.num_right, result.num_checked) == (2, 2)
    assert [(e.workload, e.answer) for e in result.examples] == [
        ("json", "thirteen char"),
        ("code", "thirteen char"),
    ]
    assert shown == [(result, None)]
    assert "dpace: 4 prompts" in progress
    assert "\x1b" not in progress


def test_an_answer_that_speculation_changed_is_not_lossless(models):
    result, _ = run(models, "lossy")
    assert [arm.num_identical for arm in result.arms] == [4, 4, 0]
    assert not result.is_lossless


def test_a_server_that_refuses_a_request_ends_the_demo_with_its_log(models):
    with pytest.raises(EngineError, match=r"request letters-000 to .* failed: (.|\n)*serving as"):
        run(models, "refusing")


def test_a_missing_record_is_an_error_and_not_a_zero(models):
    with pytest.raises(EngineError, match="4 are missing and 0 had no step"):
        run(models, "forgetful")


def test_an_occupied_port_is_refused_before_any_server_starts(models):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(EngineError, match=f"port {port} .* must be free"):
            run(models, port=port)


def test_too_many_prompts_are_refused_before_any_server_starts(models):
    with pytest.raises(ConfigError, match="at most 3"):
        run(models, "crashes", prompts_per_workload=4)


def test_each_arm_is_served_on_the_given_port_in_turn(models):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result, _ = run(models, port=port)
    assert len(result.arms) == 3


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_a_signal_stops_the_demo_and_its_server(models, tmp_path, sent, status):
    script = tmp_path / "demo.py"
    script.write_text(
        f"""
import signal
import sys
from pathlib import Path
from rich.console import Console
from dpace_serve.demo.plan import DemoModels
from dpace_serve.demo.run import run_demo
from dpace_serve.demo.settings import DemoSettings

# A job that a shell runs in the background inherits that this signal is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    run_demo(
        DemoModels(Path("t"), {{"dpace": Path("d")}}, Path({str(models.prompts)!r})),
        DemoSettings(prompts_per_workload=1),
        command=lambda config: [
            sys.executable, {str(FAKE_SERVER)!r}, str(config.port), "none", "slow"
        ],
        progress_console=Console(stderr=True),
        show=lambda result, url: None,
    )
except KeyboardInterrupt:
    sys.exit(130)
"""
    )
    with subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True) as demo:
        for line in demo.stderr:
            if "warming up" in line:
                break
        try:
            (server,) = children(demo.pid)
            demo.send_signal(sent)
            assert demo.wait(20) == status, demo.stderr.read()
        finally:
            demo.kill()
    assert not Path(f"/proc/{server}").exists()


def test_the_kept_server_answers_until_ctrl_c(models):
    seen = []

    def show(result, url):
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))):
            seen.append(url)
        signal.setitimer(signal.ITIMER_REAL, 0.3)

    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)  # Ctrl-C in 0.3 s
    try:
        result, _ = run(models, show=show, keep_serving=True)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert result.is_lossless
    (url,) = seen
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))


def test_arms_differ_in_their_drafter_only(models):
    configs = serve_configs(models, DemoSettings())
    assert list(configs) == ["none", "dflash", "dpace"]
    assert configs["none"].drafter is None
    assert configs["dpace"].drafter == models.drafters["dpace"]
    alike = {"drafter": None, "drafter_name": None}
    first, *others = [config.model_copy(update=alike) for config in configs.values()]
    assert others == [first, first]


def test_the_serve_command_carries_the_whole_configuration(models):
    config = serve_configs(models, DemoSettings())["dpace"].model_copy(update={"port": 8123})
    command = serve_command(config)
    assert command[1:5] == ["-m", "dpace_serve.cli", "serve", str(models.target)]
    split = command.index("--")
    assignments = command[6:split:2]
    target = f"target={json.dumps(str(models.target))}"
    engine_args = f"engine_args={json.dumps(command[split + 1 :])}"
    assert load_config(ServeConfig, None, [target, *assignments, engine_args]) == config


def children(pid):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if found:
            return [int(child) for child in found]
        time.sleep(0.05)
    raise AssertionError(f"{pid} of {os.getpid()} has no child")
