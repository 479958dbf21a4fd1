"""What `serve` decides before any engine is imported."""

import json
import shutil
import socket
from types import SimpleNamespace

import pytest

from dpace_serve.demo import bundle
from dpace_serve.errors import CheckpointError, ConfigError, EngineError
from dpace_serve.serve_config import ServeConfig
from dpace_serve.vllm_engine import model_runner, plugin, server, start_checks


def test_an_occupied_port_is_refused_first():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        config = ServeConfig(target="/nowhere", port=port)
        with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 must be free"):
            server.serve(config)


def test_a_missing_target_is_refused_before_the_engine(tmp_path, free_port):
    config = ServeConfig(target=str(tmp_path / "none"), port=free_port)
    with pytest.raises(CheckpointError, match="does not exist"):
        server.serve(config)


def test_a_missing_drafter_is_refused_before_the_engine(tmp_path, free_port):
    config = ServeConfig(target=str(tmp_path), drafter=tmp_path / "none", port=free_port)
    with pytest.raises(CheckpointError):
        server.serve(config)


def test_plugins_that_the_user_listed_stay():
    assert server._plugin_names("theirs,dpace") == ["theirs", "dpace", "dpace_http"]


def test_an_empty_list_of_plugins_loads_ours_only():
    assert server._plugin_names("") == ["dpace", "dpace_http"]


def test_without_a_list_everything_that_would_have_loaded_still_loads(monkeypatch):
    named = {
        "vllm.general_plugins": ["theirs", "dpace"],
        "vllm.x": ["logger"],
        "vllm.endpoint_plugins": ["closed_by_default", "dpace_http"],
        "console_scripts": ["dpace"],
    }

    def entry_points(group=None):
        if group is None:
            return SimpleNamespace(groups=set(named))
        return [SimpleNamespace(name=name) for name in named[group]]

    monkeypatch.setattr(server, "entry_points", entry_points)
    assert server._plugin_names(None) == ["theirs", "dpace", "logger", "dpace_http"]


def test_an_uninstalled_package_is_refused(monkeypatch):
    monkeypatch.setattr(start_checks, "entry_points", lambda **_: [])
    with pytest.raises(EngineError, match="Install the package"):
        start_checks.require_installed()


def test_the_model_runner_that_we_do_not_serve_with_is_refused(monkeypatch):
    monkeypatch.setenv("VLLM_PLUGINS", "")
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    with pytest.raises(ConfigError, match="VLLM_USE_V2_MODEL_RUNNER must be 0"):
        server._set_environment()


@pytest.mark.parametrize("given", [{}, {"VLLM_USE_V2_MODEL_RUNNER": "0"}])
def test_the_model_runner_that_drafters_need_is_selected_for_all_processes(given):
    environment = {"PATH": "/bin", **given}
    model_runner.select_v1_runner(environment)
    assert environment == {"PATH": "/bin", "VLLM_USE_V2_MODEL_RUNNER": "0"}


@pytest.mark.parametrize("asked", ["1", "true", ""])
def test_an_operator_who_asks_for_the_other_model_runner_is_not_overruled(asked):
    environment = {"VLLM_USE_V2_MODEL_RUNNER": asked}
    with pytest.raises(ConfigError, match="Unset it, or set it to 0"):
        model_runner.select_v1_runner(environment)
    assert environment == {"VLLM_USE_V2_MODEL_RUNNER": asked}


def test_the_selection_is_told_where_there_is_another_model_runner_to_choose():
    line = model_runner.selection_line(has_triton=True)
    assert line.startswith("serving with vLLM's V1 model runner (VLLM_USE_V2_MODEL_RUNNER=0)")
    assert "\n" not in line
    assert model_runner.selection_line(has_triton=False) is None


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1rc1"])
def test_the_pinned_engine_is_accepted(version):
    plugin.require_version(version)


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "0.320.0", "1.0.0"])
def test_another_engine_is_refused(version):
    with pytest.raises(EngineError, match=f"got {version}"):
        plugin.require_version(version)


def test_importing_the_plugin_imports_no_engine():
    import subprocess
    import sys

    code = (
        "import sys, dpace_serve.vllm_engine.plugin; "
        "print([m for m in ('vllm', 'torch', 'fastapi') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("given", [".", "inner/..", "../tiny"])
def test_a_target_is_named_by_its_folder_however_it_is_written(given, tmp_path, monkeypatch):
    (tmp_path / "tiny" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "tiny")
    arguments = server._our_arguments(ServeConfig(target=given), None)
    assert arguments["served_model_name"] == ["tiny"]


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def settings(**given):
    return ServeConfig(
        target=str(bundle.target_folder()), drafter=bundle.drafter_folder("dpace"), **given
    )


def test_drafters_of_one_name_are_refused_before_the_engine_starts():
    both = settings(challengers=(bundle.drafter_folder("dpace"),))
    with pytest.raises(ConfigError, match="2 are called dpace"):
        start_checks.require_servable(both)
    renamed = settings(drafter_name="first", challengers=(bundle.drafter_folder("dpace"),))
    assert start_checks.require_servable(renamed) == 7


def test_a_challenger_that_reads_other_layers_is_refused(tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(bundle.drafter_folder("dflash"), folder)
    written = json.loads((folder / "config.json").read_text())
    ids = written["dflash_config"]["target_layer_ids"]
    written["dflash_config"]["target_layer_ids"] = [ids[0], ids[0] + 1, *ids[2:]]
    (folder / "config.json").write_text(json.dumps(written))
    with pytest.raises(CheckpointError, match="target_layer_ids must be"):
        start_checks.require_servable(settings(challengers=(folder,)))


def test_a_root_that_is_no_folder_and_a_key_that_others_can_read_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="drafter_root must be a folder"):
        start_checks.require_servable(settings(drafter_root=tmp_path / "none"))
    key = tmp_path / "key"
    key.write_text("secret")
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        start_checks.require_servable(settings(admin_key_file=key))


def test_an_admin_key_is_refused_beside_the_engines_development_mode(tmp_path, monkeypatch):
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text("secret")
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    with pytest.raises(ConfigError, match="Unset VLLM_SERVER_DEV_MODE") as caught:
        start_checks.require_servable(settings(admin_key_file=key))
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("DPACE_ADMIN_KEY", "secret")
    with pytest.raises(ConfigError, match="Unset VLLM_SERVER_DEV_MODE"):
        start_checks.require_servable(settings())
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "0")
    assert start_checks.require_servable(settings()) == 7
    monkeypatch.delenv("VLLM_SERVER_DEV_MODE")
    assert start_checks.require_servable(settings(admin_key_file=key)) == 7


def test_without_an_admin_key_development_mode_is_served_and_told(monkeypatch, caplog):
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    assert start_checks.require_servable(settings()) == 7
    assert "can change the drafters" in caplog.text
