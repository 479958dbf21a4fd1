"""Keeps a drafter's weights on a CPU as they were loaded, so that others can be written over them.

After loading, the CPU engine packs the weights of linear layers into handles of its own and empties
the parameters. What is compiled for the model then holds those handles: another drafter would need
another model, compiled anew while every stream waits.
"""

from collections.abc import Iterable
from functools import wraps
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from vllm.model_executor.models.qwen3_dflash import DFlashQwen3ForCausalLM

Weights = Iterable[tuple[str, "torch.Tensor"]]

_MARK = "leaves_weights_plain"


def install() -> None:
    """Tell the engine to leave drafters' linear layers alone; installing again changes nothing."""
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.models.qwen3_dflash import DFlashQwen3ForCausalLM

    load = DFlashQwen3ForCausalLM.load_weights
    if hasattr(load, _MARK):
        return

    @wraps(load)
    def load_and_leave_plain(model: "DFlashQwen3ForCausalLM", weights: Weights) -> None:
        for module in model.modules():
            if isinstance(module, LinearBase):
                module._cpu_skip_gemm_dispatch = True  # noqa: SLF001  (the engine's own switch)
        load(model, weights)

    setattr(load_and_leave_plain, _MARK, True)
    DFlashQwen3ForCausalLM.load_weights = load_and_leave_plain
