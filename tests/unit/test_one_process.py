import pytest

from dpace_serve.cli import main
from dpace_serve.errors import ConfigError
from dpace_serve.one_process import require_one_process

COMMANDS = {
    "prepare": ["CONFIG"],
    "report": ["FOLDER"],
    "study": ["CONFIG"],
    "eval": ["--target=T", "--drafter=D", "--prompts=P"],
    "doctor": ["--target=T", "--drafter=D"],
    "export": ["D", "--layout=zlab", "--output=O"],
}


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "1", "RANK": "0"}])
def test_one_process_is_the_rule(environment):
    require_one_process("study", environment)


def test_several_processes_are_refused_with_the_cure():
    with pytest.raises(
        ConfigError, match=r"dpace study runs .* WORLD_SIZE is 2\. Start it without"
    ):
        require_one_process("study", {"WORLD_SIZE": "2"})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_but_train_refuses_to_run_beside_itself(
    command, monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_status:
        main([command, *COMMANDS[command]])
    assert exit_status.value.code == 2
    assert capsys.readouterr().err.startswith(f"dpace: dpace {command} runs in one process")
    assert not list(tmp_path.iterdir())
