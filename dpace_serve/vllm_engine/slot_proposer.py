"""One more drafter in the engine: its own weights, keys and values, and a checkpoint to reload."""

import copy
from pathlib import Path
from typing import Any

import torch
from typing_extensions import override
from vllm.compilation.backends import set_model_tag
from vllm.config import SpeculativeConfig, VllmConfig, set_current_vllm_config
from vllm.forward_context import set_forward_context
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.model_loader import get_model, get_model_loader
from vllm.model_executor.model_loader.utils import get_draft_load_config
from vllm.v1.spec_decode.dflash import DFlashProposer
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from dpace_serve.errors import SwapError


class SlotProposer(DFlashProposer):
    """vLLM's DFlash proposer under a name of its own.

    The name is the prefix of its layers: it gives them keys and values of their own in the same
    cache group, so that they share the block tables of the target.
    """

    def __init__(
        self,
        vllm_config: VllmConfig,
        device: torch.device,
        runner: GPUModelRunner | None,
        *,
        slot: int,
        folder: Path,
    ) -> None:
        """Build the proposer of another drafter than the engine's own.

        Args:
            vllm_config: The engine's configuration.
            device: Where it drafts.
            runner: The model runner.
            slot: Its number, from 1.
            folder: Folder of the drafter.
        """
        self.slot_name = f"drafter_{slot}"
        super().__init__(_with_drafter(vllm_config, folder), device, runner)

    @override
    def _get_model(self) -> torch.nn.Module:
        config = self._create_draft_vllm_config()
        # The tag names the compiled graphs: two drafters must not read each other's.
        with set_model_tag(self.slot_name):
            model: torch.nn.Module = get_model(
                vllm_config=config,
                model_config=self.draft_model_config,
                prefix=self.slot_name,
                load_config=get_draft_load_config(config),
            )
        return model


def reload(proposer: DFlashProposer, folder: Path, *, prefix: str) -> None:
    """Give a proposer another drafter of the same shape, between two steps.

    Where the weights still lie in the model as they were loaded, they are overwritten: whatever
    was compiled or captured for the model stays valid. The CPU packs them away while loading;
    there a new model is built, which takes over the keys and values of the old one.

    Args:
        proposer: Whose drafter is replaced; nobody may draft with it now.
        folder: Folder of the new drafter, which has the shape of the old one.
        prefix: Name of the proposer's layers.

    Raises:
        SwapError: If the weights cannot be replaced, or the new drafter computes no numbers.
    """
    model = proposer.model
    if _is_quantized(model):
        raise SwapError(
            "a quantized drafter cannot be loaded while serving, because its weights were changed "
            "when they were loaded. Restart with it, or give one that is not quantized."
        )
    model_config = copy.copy(proposer.draft_model_config)
    model_config.model = str(folder)
    if _holds_its_weights(model):
        config = proposer._create_draft_vllm_config()  # noqa: SLF001  (as the proposer loads it)
        with set_current_vllm_config(proposer.vllm_config):
            get_model_loader(get_draft_load_config(config)).load_weights(model, model_config)
    else:
        proposer.model = _build_beside(proposer, model_config, prefix)
    _require_numbers(proposer)


def _with_drafter(vllm_config: VllmConfig, folder: Path) -> VllmConfig:
    base = vllm_config.speculative_config
    config = copy.copy(vllm_config)
    config.speculative_config = SpeculativeConfig(
        method=base.method,
        model=str(folder),
        num_speculative_tokens=base.num_speculative_tokens,
        draft_sample_method=base.draft_sample_method,
        attention_backend=base.attention_backend,
        kv_cache_dtype=base.kv_cache_dtype,
        target_model_config=vllm_config.model_config,
        target_parallel_config=vllm_config.parallel_config,
    )
    return config


def _holds_its_weights(model: torch.nn.Module) -> bool:
    return all(parameter.numel() for parameter in model.parameters())


def _is_quantized(model: torch.nn.Module) -> bool:
    return any(
        isinstance(module, LinearBase)
        and not isinstance(module.quant_method, UnquantizedLinearMethod)
        for module in model.modules()
    )


def _build_beside(proposer: DFlashProposer, model_config: object, prefix: str) -> torch.nn.Module:
    old = proposer.model
    config = proposer._create_draft_vllm_config()  # noqa: SLF001  (as the proposer loads it)
    config.speculative_config = copy.copy(config.speculative_config)
    config.speculative_config.draft_model_config = model_config
    compilation = config.compilation_config
    live = compilation.static_forward_context
    # The layers enter themselves there by name, and a name may be taken only once.
    compilation.static_forward_context = {}
    try:
        with set_current_vllm_config(config):
            new: torch.nn.Module = get_model(
                vllm_config=config,
                model_config=model_config,
                prefix=prefix,
                load_config=get_draft_load_config(config),
            )
        layers = compilation.static_forward_context
    finally:
        compilation.static_forward_context = live
    for name, layer in layers.items():
        layer.kv_cache = live[name].kv_cache
        # The CPU backend chooses its instruction set once, when it plans the cache.
        if hasattr(live[name], "isa"):
            layer.isa = live[name].isa
        live[name] = layer
    _share_with_target(new, old)
    return new


def _share_with_target(new: torch.nn.Module, old: torch.nn.Module) -> None:
    """Take over what the old drafter had from the target, if the new one brings none."""
    inner: Any = new.model
    if not getattr(new, "has_own_embed_tokens", False):
        del inner.embed_tokens
        inner.embed_tokens = old.get_submodule("model.embed_tokens")
    if not getattr(new, "has_own_lm_head", False):
        del new.lm_head
        new.lm_head = old.get_submodule("lm_head")


def _require_numbers(proposer: DFlashProposer) -> None:
    num_tokens = 1 + proposer.num_speculative_tokens
    device = proposer.device
    with (
        torch.inference_mode(),
        set_forward_context(None, proposer.vllm_config, num_tokens=num_tokens),
    ):
        hidden = proposer.model(
            input_ids=torch.zeros(num_tokens, dtype=torch.int32, device=device),
            positions=torch.arange(num_tokens, device=device),
            inputs_embeds=None,
        )
    if not bool(torch.isfinite(hidden).all()):
        raise SwapError(
            "a drafter must compute finite numbers, and this one does not on a first block. "
            "Retrain it, or give another."
        )
