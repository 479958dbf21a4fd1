"""The random state of a process: that of the CPU, and that of its accelerator where it has one."""

from collections.abc import Mapping

import torch
from torch import Tensor

CPU_STATE = "random_state"
DEVICE_STATE = "device_random_state"


def read_random_states(device: torch.device) -> dict[str, Tensor]:
    """The states by name, on the CPU.

    Args:
        device: Where this process computes.
    """
    states = {CPU_STATE: torch.get_rng_state()}
    if device.type != "cpu":
        states[DEVICE_STATE] = torch.get_device_module(device).get_rng_state(device)
    return states


def restore_random_states(saved: Mapping[str, Tensor], *, rank: int, device: torch.device) -> None:
    """Put back what this rank had; a rank or device that was not there keeps its own state.

    Args:
        saved: States under the names of `read_random_states`, with `.rank` behind them.
        rank: Number of this process.
        device: Where this process computes.
    """
    of_cpu = saved.get(f"{CPU_STATE}.{rank}")
    if of_cpu is not None:
        torch.set_rng_state(of_cpu)
    of_device = saved.get(f"{DEVICE_STATE}.{rank}")
    if of_device is not None and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(of_device, device)
