"""Commands that several processes must not run side by side: they would write the same files."""

from collections.abc import Mapping

from dpace_serve.errors import ConfigError


def require_one_process(command: str, environment: Mapping[str, str]) -> None:
    """Refuse a command that a launcher has started several times.

    Args:
        command: What follows `dpace`.
        environment: `WORLD_SIZE` in it is how `torchrun` and `accelerate launch` say how many.

    Raises:
        ConfigError: If there is more than one process.
    """
    num_processes = environment.get("WORLD_SIZE", "1")
    if num_processes != "1":
        raise ConfigError(
            f"dpace {command} runs in one process, WORLD_SIZE is {num_processes}. Start it without "
            "torchrun or accelerate launch, or unset WORLD_SIZE; dpace train takes several."
        )
