"""What `accelerate launch` can ask for and this trainer takes from its own settings instead."""

from collections.abc import Mapping
from dataclasses import dataclass

from dpace_serve.errors import ConfigError

# Most of these variables are always there; this is what they hold where nothing was asked for.
_OFF = frozenset({"", "0", "false", "no"})
_ONE = frozenset({"", "1"})


@dataclass(frozen=True, slots=True)
class _LauncherOption:
    name: str
    cure: str
    asks_nothing: frozenset[str] = _OFF


_SHARDING = "set fit.sharding=fsdp2 for a part of every weight on each process"
_REFUSED = {
    "ACCELERATE_MIXED_PRECISION": _LauncherOption(
        "--mixed_precision", "set fit.autocast=bfloat16 for products in bfloat16"
    ),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": _LauncherOption(
        "--gradient_accumulation_steps",
        "set fit.batch_size for a step and fit.micro_batch_size for a backward pass",
        _ONE,
    ),
    "ACCELERATE_DYNAMO_BACKEND": _LauncherOption(
        "--dynamo_backend", "there is no setting for torch.compile"
    ),
    "ACCELERATE_USE_FSDP": _LauncherOption("--use_fsdp", _SHARDING),
    "ACCELERATE_USE_DEEPSPEED": _LauncherOption("--use_deepspeed", _SHARDING),
    "ACCELERATE_USE_MEGATRON_LM": _LauncherOption("--use_megatron_lm", _SHARDING),
    "ACCELERATE_USE_PARALLELISM_CONFIG": _LauncherOption("--use_parallelism_config", _SHARDING),
}
_REFUSED_ON_GPU = {
    "ACCELERATE_USE_CPU": _LauncherOption(
        "--cpu", "set CUDA_VISIBLE_DEVICES to nothing to compute on the CPU"
    )
}


def require_no_launcher_settings(environment: Mapping[str, str], *, has_gpu: bool) -> None:
    """Refuse options of `accelerate launch` that would have no effect here.

    Its defaults ask for nothing and are accepted. It hands its options on in the environment.

    Args:
        environment: Variables of this process.
        has_gpu: Whether torch sees a GPU, on which the run would compute.

    Raises:
        ConfigError: If the launcher, or its configuration file, asks for one of them.
    """
    refused = _REFUSED | _REFUSED_ON_GPU if has_gpu else _REFUSED
    for variable, option in refused.items():
        value = environment.get(variable, "")
        if value.strip().lower() not in option.asks_nothing:
            raise ConfigError(
                f"accelerate launch {option.name} has no effect on dpace train, got "
                f"{variable}={value}. Drop it from the command and from accelerate's configuration "
                f"file; {option.cure}."
            )
