"""Options of `accelerate launch`: its defaults train, what our own settings say is refused."""

import json
import os
import subprocess
import sys

import pytest

from dpace_serve.drafter import checkpoint
from dpace_serve.errors import ConfigError
from dpace_training.fit.launcher import require_no_launcher_settings

# What accelerate 1.15 sets in every process that it launches.
DEFAULTS = {
    "ACCELERATE_USE_CPU": "False",
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "False",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
}


@pytest.mark.parametrize("environment", [{}, DEFAULTS, {"ACCELERATE_USE_FSDP": "false"}])
@pytest.mark.parametrize("has_gpu", [False, True])
def test_a_launcher_that_asks_for_nothing_is_accepted(environment, has_gpu):
    require_no_launcher_settings(environment, has_gpu=has_gpu)


@pytest.mark.parametrize(
    ("variable", "value", "option", "cure"),
    [
        ("MIXED_PRECISION", "bf16", "--mixed_precision", "set fit.autocast=bfloat16"),
        ("MIXED_PRECISION", "fp8", "--mixed_precision", "set fit.autocast=bfloat16"),
        ("USE_FSDP", "true", "--use_fsdp", "set fit.sharding=fsdp2"),
        ("USE_DEEPSPEED", "true", "--use_deepspeed", "set fit.sharding=fsdp2"),
        ("USE_MEGATRON_LM", "true", "--use_megatron_lm", "set fit.sharding=fsdp2"),
        ("USE_PARALLELISM_CONFIG", "true", "--use_parallelism_config", "set fit.sharding=fsdp2"),
        ("GRADIENT_ACCUMULATION_STEPS", "4", "--gradient_acc", "fit.micro_batch_size for"),
        ("GRADIENT_ACCUMULATION_STEPS", "auto", "--gradient_acc", "fit.micro_batch_size for"),
        ("DYNAMO_BACKEND", "INDUCTOR", "--dynamo_backend", "no setting for torch.compile"),
    ],
)
def test_what_a_setting_of_ours_says_is_refused_with_its_name(variable, value, option, cure):
    environment = DEFAULTS | {f"ACCELERATE_{variable}": value}
    with pytest.raises(ConfigError) as refused:
        require_no_launcher_settings(environment, has_gpu=False)
    said = str(refused.value)
    assert said.startswith(f"accelerate launch {option}")
    assert f"ACCELERATE_{variable}={value}" in said
    assert cure in said
    assert "\n" not in said


def test_the_launchers_cpu_is_refused_only_where_a_gpu_would_be_used_instead():
    environment = DEFAULTS | {"ACCELERATE_USE_CPU": "True"}
    require_no_launcher_settings(environment, has_gpu=False)
    with pytest.raises(ConfigError, match=r"--cpu has no effect .* set CUDA_VISIBLE_DEVICES to"):
        require_no_launcher_settings(environment, has_gpu=True)


def launch(file, *options):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    command += [*options, "-m", "dpace_serve.cli", "train", str(file)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        # Without the settings of this machine's user.
        env=os.environ | {"HF_HOME": str(file.parent / "home")},
    )


@pytest.fixture
def plan(target_folder, write_jsonl, tmp_path):
    chats = [{"messages": [{"role": "user", "content": f"say {i}"}]} for i in range(4)]
    values = {
        "target": str(target_folder),
        "output": str(tmp_path / "drafter"),
        "data": {
            "conversations": str(write_jsonl("chats.jsonl", chats)),
            "work": str(tmp_path / "work"),
            "regenerate": {"max_new_tokens": 12},
        },
        "drafter": {"num_hidden_layers": 1, "block_size": 4, "num_taps": 2},
        "fit": {"epochs": 1, "batch_size": 4, "num_anchors": 4, "log_every": 1},
    }
    file = tmp_path / "plan.yaml"
    file.write_text(json.dumps(values), encoding="utf-8")
    return file


@pytest.mark.slow
def test_accelerate_launch_trains_a_drafter(plan):
    done = launch(plan)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "drafter after 1 steps" in done.stdout
    checkpoint.validate(plan.parent / "drafter")


@pytest.mark.slow
def test_accelerate_launch_in_mixed_precision_is_refused_before_the_target_works(plan):
    done = launch(plan, "--mixed_precision", "bf16")
    assert done.returncode != 0
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("dpace: ")]
    assert "ACCELERATE_MIXED_PRECISION=bf16" in said
    assert "set fit.autocast=bfloat16" in said
    assert not (plan.parent / "work").exists()
