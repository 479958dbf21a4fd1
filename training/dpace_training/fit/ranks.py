"""The processes of one run: who this one is, sums over all of them, and how the drafter is spread.

One process needs nothing of it. Several come from `torchrun` or `accelerate launch`; a rank is one
of them. Every method is collective: all ranks call it, in the same order.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from dpace_training.device import available_device

Sharding = Literal["none", "fsdp2"]

# The first rank prepares data alone, which may take hours, while the others wait for it.
LONGEST_WAIT = timedelta(days=1)


class Ranks:
    """The processes of this run.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        device: Where this process computes.
    """

    def __init__(self) -> None:
        """Join the other processes, where a launcher has started some."""
        is_cpu = available_device().type == "cpu"
        state = PartialState(cpu=is_cpu, timeout=LONGEST_WAIT)
        self.rank: int = state.process_index
        self.size: int = state.num_processes
        # Gloo gives "cpu:0", "cpu:1", ...: all the same device under names that torch holds apart.
        self.device = torch.device("cpu") if is_cpu else state.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes what the run writes."""
        return self.rank == 0

    def sum(self, numbers: Tensor) -> Tensor:
        """The same numbers summed over all ranks."""
        if self.size == 1:
            return numbers
        total = numbers.to(self.device).clone()
        dist.all_reduce(total)
        return total.to(numbers.device)

    def gather(self, value: object) -> list[Any]:
        """A small picklable object of each rank, in their order; every rank gets all."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Run the body on the first rank, then on all others."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def wait(self) -> None:
        """Go on when all ranks are here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """End the connection; without it a process that ends first takes the others with it."""
        if self.size > 1:
            dist.destroy_process_group()
            PartialState._reset_state()  # noqa: SLF001 (accelerate offers no other way out)


def spread(module: nn.Module, layers: nn.ModuleList, ranks: Ranks, sharding: Sharding) -> nn.Module:
    """The module as all ranks train it together; with one process the module itself.

    Args:
        module: The whole drafter, on this rank's device.
        layers: Its layers, each of which is gathered and freed on its own when sharded.
        ranks: The processes.
        sharding: `none` gives each rank all weights, `fsdp2` a part of each.
    """
    if ranks.size == 1:
        return module
    if sharding == "none":
        ids = None if ranks.device.type == "cpu" else [ranks.device]
        return DistributedDataParallel(module, device_ids=ids)
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
        # Called from outside the layer's forward, so its weights must be gathered for it too.
        register_fsdp_forward_method(layer, "read_context")
    fully_shard(module, mesh=mesh)
    return module


def accumulating(module: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
    """Gradients of all but the last backward pass of a step stay on their rank."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(is_last)
    elif isinstance(module, DistributedDataParallel) and not is_last:
        return module.no_sync()
    return nullcontext()
