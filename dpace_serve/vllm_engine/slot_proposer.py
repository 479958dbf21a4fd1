"""One more drafter in the engine: its own weights, keys and values, and a checkpoint to reload."""

import copy
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import torch
from typing_extensions import override
from vllm.compilation.backends import set_model_tag
from vllm.config import SpeculativeConfig, VllmConfig, set_current_vllm_config
from vllm.forward_context import set_forward_context
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.model_loader import get_model, get_model_loader
from vllm.model_executor.model_loader.utils import get_draft_load_config
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.attention.backends.utils import PAD_SLOT_ID
from vllm.v1.spec_decode.dflash import DFlashProposer
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from dpace_serve.drafter.content import PinnedWeights
from dpace_serve.errors import CheckpointError, SwapError
from dpace_serve.vllm_engine.drafter_model import follow_blocks


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

        Raises:
            CheckpointError: If its sequences end before those of the engine's own drafter, by which
                the runner decides whether there is room for a draft.
        """
        self.slot_name = f"drafter_{slot}"
        super().__init__(_with_drafter(vllm_config, folder), device, runner)
        longest = vllm_config.speculative_config.draft_model_config.max_model_len
        if self.draft_model_config.max_model_len < longest:
            raise CheckpointError(
                f"{folder}: must take sequences of {longest} tokens, as the first drafter does, "
                f"takes {self.draft_model_config.max_model_len}. Start with --max-model-len "
                f"{self.draft_model_config.max_model_len}, or serve it alone."
            )

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


def reload(proposer: DFlashProposer, weights: PinnedWeights) -> None:
    """Write the weights of another drafter of the same shape over those of a proposer's.

    The model stays the same object, so whatever was compiled or captured for it stays valid, and so
    do its keys and values.

    Args:
        proposer: Whose drafter is replaced, between two steps; nobody may draft with it now.
        weights: Those of the new drafter, which has the shape of the old one. Nothing is loaded but
            the files that were checked.

    Raises:
        SwapError: If the weights cannot be replaced, or the new drafter computes no numbers.
    """
    model = proposer.model
    if not all(parameter.numel() for parameter in model.parameters()) or _is_quantized(model):
        raise SwapError(
            "a drafter whose weights the engine changed when it loaded them (quantized or packed) "
            "cannot be replaced while serving. Restart with the new one.",
            status=HTTPStatus.UNPROCESSABLE_ENTITY,
        )
    # Whatever format the engine was started with: any other might open a pickle.
    load_config = replace(
        get_draft_load_config(proposer.vllm_config),
        load_format="safetensors",
        model_loader_extra_config={},
    )
    model_config = copy.copy(proposer.draft_model_config)
    model_config.model = str(weights.folder)
    try:
        weights.require_untouched()
        with set_current_vllm_config(proposer.vllm_config):
            get_model_loader(load_config).load_weights(model, model_config)
        weights.require_untouched()
    except CheckpointError as error:
        raise SwapError(str(error), status=HTTPStatus.UNPROCESSABLE_ENTITY) from None
    _require_numbers(proposer)


def _with_drafter(vllm_config: VllmConfig, folder: Path) -> VllmConfig:
    base = vllm_config.speculative_config
    config = copy.copy(vllm_config)
    config.speculative_config = SpeculativeConfig(
        method=base.method,
        model=str(folder),
        num_speculative_tokens=base.num_speculative_tokens,
        num_speculative_tokens_per_batch_size=base.num_speculative_tokens_per_batch_size,
        draft_sample_method=base.draft_sample_method,
        attention_backend=base.attention_backend,
        kv_cache_dtype=base.kv_cache_dtype,
        target_model_config=vllm_config.model_config,
        target_parallel_config=vllm_config.parallel_config,
    )
    return config


def _is_quantized(model: torch.nn.Module) -> bool:
    return any(
        isinstance(module, LinearBase)
        and not isinstance(module.quant_method, UnquantizedLinearMethod)
        for module in model.modules()
    )


def _require_numbers(proposer: DFlashProposer) -> None:
    """Draft one block of mask tokens, on an empty context and without a trace in the cache.

    It is as long as blocks become, whatever the last step's length: specialists of later positions
    compute too.
    """
    longest = proposer.vllm_config.speculative_config.num_speculative_tokens
    follow_blocks(proposer.model, longest)  # the next draft sets its own length
    num_tokens, device = 1 + longest, proposer.device
    nowhere = torch.full((num_tokens,), PAD_SLOT_ID, dtype=torch.int64, device=device)
    starts = torch.tensor([0, num_tokens], dtype=torch.int32)
    lengths = torch.tensor([num_tokens], dtype=torch.int32)
    block = CommonAttentionMetadata(
        query_start_loc=starts.to(device),
        query_start_loc_cpu=starts,
        seq_lens=lengths.to(device),
        num_reqs=1,
        num_actual_tokens=num_tokens,
        max_query_len=num_tokens,
        max_seq_len=num_tokens,
        # The engine's null block, which stays as it was made: all zeros.
        block_table_tensor=torch.zeros(1, num_tokens, dtype=torch.int32, device=device),
        slot_mapping=nowhere,
        causal=proposer.dflash_causal,
        seq_lens_cpu_upper_bound=lengths,
    )
    _, attention = proposer.build_per_group_and_layer_attn_metadata(block)
    slots = dict.fromkeys(attention, nowhere)
    masks = torch.full_like(nowhere, proposer.parallel_drafting_token_id, dtype=torch.int32)
    with (
        torch.inference_mode(),
        set_forward_context(
            attention, proposer.vllm_config, num_tokens=num_tokens, slot_mapping=slots
        ),
    ):
        hidden = proposer.model(
            input_ids=masks,
            positions=torch.arange(num_tokens, device=device),
            inputs_embeds=None,
        )
    if not bool(torch.isfinite(hidden).all()):
        raise SwapError(
            "a drafter must compute finite numbers, and this one does not on its first block. "
            "Retrain it, or give another.",
            status=HTTPStatus.UNPROCESSABLE_ENTITY,
        )
