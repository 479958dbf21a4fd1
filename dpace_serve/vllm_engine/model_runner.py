"""Which of vLLM's two model runners serves: V1, which our proposer belongs to."""

from collections.abc import MutableMapping

from dpace_serve.errors import ConfigError

V2_RUNNER_VARIABLE = "VLLM_USE_V2_MODEL_RUNNER"


def select_v1_runner(environment: MutableMapping[str, str]) -> None:
    """Select V1 for the engine and its processes, whichever vLLM would choose by itself.

    Raises:
        ConfigError: If the user asks for the other one.
    """
    if environment.setdefault(V2_RUNNER_VARIABLE, "0") != "0":
        raise ConfigError(f"{V2_RUNNER_VARIABLE} must be 0 here. Unset it, or set it to 0.")


def selection_line(*, has_triton: bool) -> str | None:
    """One line for the log; None where vLLM has no other runner to choose, which needs Triton."""
    if not has_triton:
        return None
    return (
        f"serving with vLLM's V1 model runner ({V2_RUNNER_VARIABLE}=0), also where vLLM by itself "
        "would choose V2: that one has no place for a second drafter"
    )
