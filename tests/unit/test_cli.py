import json
import socket
import subprocess
import sys

import pytest

from dpace_loadtest import cli as loadtest_cli
from dpace_serve import cli
from dpace_serve.drafter import doctor
from dpace_serve.drafter.doctor import Finding
from dpace_serve.serve_config import ServeConfig

TUNE = ["tune", "t", "--drafter", "d", "--prompts", "p", "--output"]


def dpace(*arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    return caught.value.code


def test_help_loads_neither_torch_nor_an_engine():
    script = """
import sys
from dpace_loadtest import cli as loadtest_cli
from dpace_serve import cli
try:
    cli.main(["--help"])
except SystemExit as end:
    assert end.code == 0
heavy = {"torch", "vllm", "transformers", "accelerate", "openai", "fastapi", "httpx2"}
heavy &= set(sys.modules)
sys.exit(f"loaded {heavy}" if heavy else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for command in ("demo", "serve", "doctor", "drafter", "tune", "loadtest"):
        assert f"  {command}" in done.stdout


def test_the_module_can_be_run():
    done = subprocess.run(
        [sys.executable, "-m", "dpace_serve.cli", "--help"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: dpace ")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["serve", "t", "--set", "prot=1"], "unknown key prot"),
        (["serve", "t", "--set", "prot"], "must read key=value"),
        (["serve", "t", "--challenger", "c"], "challengers need a drafter"),
        (["serve", "t", "--port", "0"], "greater than or equal to 1, got 0"),
        (["serve", "t", "--config", "/no/such.yaml"], "/no/such.yaml: cannot be read"),
        (["demo", "--json", "/no/such/folder/f.json"], "must be a file in an existing folder"),
        (["doctor", "--target", "t", "--drafter", "d", "--json", "/"], "must be a file"),
        ([*TUNE, "/"], "must be a file in an existing folder"),
        ([*TUNE, "s.json"], "d: the drafter's folder does not exist"),
        ([*TUNE, "s.json", "--set", "rounds=1"], "rounds"),
        ([*TUNE, "s.json", "--set", "serve.prot=1"], "unknown key serve.prot"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_status_2(capsys, arguments, complaint):
    assert dpace(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dpace: ")
    assert err.count("\n") == 1
    assert complaint in err


@pytest.mark.parametrize(
    "arguments", [["serv"], ["serve"], ["demo", "--port", "x"], ["serve", "t", "--max-model-len"]]
)
def test_a_wrong_usage_is_status_2_without_a_traceback(capsys, arguments):
    assert dpace(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_occupied_port_stops_the_demo_with_one_line(capsys, monkeypatch, tmp_path):
    from dpace_serve.demo import plan, run

    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"workload": "code", "prompt": "x"}')
    monkeypatch.setattr(plan, "bundled_models", lambda: plan.DemoModels(tmp_path, {}, prompts))
    monkeypatch.setattr(run, "require_engine", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert dpace("demo", "--port", str(port), "--prompts-per-workload", "1") == 2
    assert capsys.readouterr().err.startswith(f"dpace: port {port} on 127.0.0.1 must be free")


def test_a_missing_engine_stops_the_demo_with_one_line(capsys, monkeypatch):
    from dpace_serve.demo import run

    monkeypatch.setattr(run, "find_spec", lambda name: None)
    assert dpace("demo") == 2
    assert capsys.readouterr().err.startswith("dpace: the demo needs vLLM")


def test_a_missing_model_stops_the_demo_with_one_line(capsys, monkeypatch, tmp_path):
    from dpace_serve.demo import bundle, run

    monkeypatch.setattr(run, "require_engine", lambda: None)
    monkeypatch.setattr(bundle, "drafter_folder", lambda name: tmp_path / name)
    monkeypatch.setattr(bundle, "target_folder", lambda: tmp_path)
    assert dpace("demo") == 2
    assert capsys.readouterr().err == (
        f"dpace: {tmp_path}/dflash: the demo's models must be there, this one is missing. "
        "Install the package again, or make them with `make models`.\n"
    )


def test_serve_options_become_one_configuration(monkeypatch, tmp_path):
    from dpace_serve.vllm_engine import server

    served = []
    monkeypatch.setattr(server, "serve", served.append)
    file = tmp_path / "serve.yaml"
    file.write_text("port: 8001\nhost: 0.0.0.0\neager: true\n")
    given = ["serve", "12", "--drafter", "d", "--config", str(file), "--port", "8002"]
    assert dpace(*given, "--set", "dtype=float32", "--", "--max-model-len", "512") == 0
    assert served == [
        ServeConfig(
            target="12",  # a folder may look like a number
            drafter="d",
            host="0.0.0.0",  # noqa: S104  (from the file; nothing listens)
            port=8002,
            eager=True,
            dtype="float32",
            engine_args=("--max-model-len", "512"),
        )
    ]


def test_serve_takes_challengers_and_how_they_are_compared(monkeypatch):
    from dpace_serve.vllm_engine import server

    served = []
    monkeypatch.setattr(server, "serve", served.append)
    given = ["--drafter", "a", "--challenger", "b", "--challenger", "c", "--mode", "split"]
    assert dpace("serve", "t", *given, "--share", "0.2", "--shadow-share", "0.5") == 0
    assert served == [
        ServeConfig(
            target="t",
            drafter="a",
            challengers=("b", "c"),
            mode="split",
            share=0.2,
            shadow_share=0.5,
        )
    ]


def test_a_path_with_any_character_arrives_as_given(monkeypatch, tmp_path):
    from dpace_serve.vllm_engine import server

    served = []
    monkeypatch.setattr(server, "serve", served.append)
    drafter = tmp_path / "dräf 😀"
    assert dpace("serve", "😀", "--drafter", str(drafter)) == 0
    assert (served[0].target, served[0].drafter) == ("😀", drafter)


def test_ctrl_c_is_status_130(monkeypatch):
    from dpace_serve.vllm_engine import server

    def serve(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "serve", serve)
    assert dpace("serve", "t") == 130


def test_the_doctor_prints_each_check_and_writes_them(capsys, monkeypatch, tmp_path):
    findings = [
        Finding("hidden size", ok=True, message="128 in both"),
        Finding("rotation", ok=True, message="differs a little.", cure="Look at it."),
    ]
    monkeypatch.setattr(doctor, "examine", lambda target, drafter, num_draft_tokens: findings)
    file = tmp_path / "out.json"
    assert dpace("doctor", "--target", "t", "--drafter", "d", "--json", str(file)) == 0
    assert capsys.readouterr().out == (
        "ok    hidden size: 128 in both\nnote  rotation: differs a little. Look at it.\n"
    )
    written = json.loads(file.read_text())
    assert written["ok"] is True
    assert written["findings"][1]["cure"] == "Look at it."


def test_a_replay_without_what_it_needs_is_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    given = ["--target", str(tmp_path), "--drafter", str(tmp_path), "--replay", "prompts.jsonl"]
    assert dpace("doctor", *given) == 2
    assert "Install it: pip install 'dpace-serve[train]'." in capsys.readouterr().err


def test_a_load_test_without_locust_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(loadtest_cli, "find_spec", lambda name: None)
    assert dpace("loadtest", "--scenario", "s.yaml") == 2
    assert "Install it: pip install 'dpace-serve[loadtest]'." in capsys.readouterr().err


def test_a_failed_check_of_the_doctor_is_status_1(capsys, tmp_path):
    assert dpace("doctor", "--target", str(tmp_path), "--drafter", str(tmp_path)) == 1
    assert "FAIL" in capsys.readouterr().out
