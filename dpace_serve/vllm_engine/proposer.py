"""The drafter inside the engine: vLLM's DFlash proposer, with its checkpoint checked."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from typing_extensions import override
from vllm.config import VllmConfig
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.spec_decode.dflash import DFlashProposer
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from dpace_serve.drafter import doctor
from dpace_serve.drafter.target import find_target_folder
from dpace_serve.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class DraftStep:
    """One proposal for a batch, as an observer sees it.

    Attributes:
        request_ids: The engine's names of the requests, one per row.
        taps: Target hidden states of the step's tokens, all requests after one another:
            `[tokens, layers * hidden]`. A request's rejected tokens are the last of its rows.
        tap_starts: Where each request's rows start, and the end: `[requests + 1]`.
        anchors: Token that each block starts with: `[requests]`.
        draft_tokens: What was drafted: `[requests, positions]`.
        logits: What it was drafted from: `[requests, positions, vocab]`.
    """

    request_ids: tuple[str, ...]
    taps: torch.Tensor
    tap_starts: torch.Tensor
    anchors: torch.Tensor
    draft_tokens: torch.Tensor
    logits: torch.Tensor


DraftObserver = Callable[[DraftStep], None]


class DpaceProposer(DFlashProposer):
    """Drafts with a checkpoint that has exactly the tensors it should have.

    Attributes:
        observer: Called with every proposal; none costs nothing.
    """

    observer: DraftObserver | None = None

    def __init__(
        self, vllm_config: VllmConfig, device: torch.device, runner: GPUModelRunner | None = None
    ) -> None:
        """Check the checkpoint, then build the engine's proposer.

        Args:
            vllm_config: The engine's configuration.
            device: Where it drafts.
            runner: The model runner, which alone knows the requests' names.

        Raises:
            CheckpointError: If the drafter is not complete or does not fit its target. vLLM
                itself serves one with a missing tensor without a word.
        """
        if _is_folder(vllm_config):
            require_servable(vllm_config)
        super().__init__(vllm_config, device, runner)
        self.runner = runner  # the base class does not keep it
        self._sampled_from: torch.Tensor | None = None

    def load_model(self, target_model: torch.nn.Module) -> None:
        """Load the drafter; one given by its hub name can be checked only after that.

        Raises:
            CheckpointError: If the drafter is not complete or does not fit its target.
        """
        super().load_model(target_model)
        if not _is_folder(self.vllm_config):
            require_servable(self.vllm_config)

    @override
    def propose(
        self,
        num_speculative_tokens: int,
        target_token_ids: torch.Tensor,
        target_positions: torch.Tensor,
        target_hidden_states: torch.Tensor,
        next_token_ids: torch.Tensor,
        token_indices_to_sample: torch.Tensor | None,
        common_attn_metadata: CommonAttentionMetadata,
        sampling_metadata: SamplingMetadata,
        mm_embed_inputs: tuple[list[torch.Tensor], torch.Tensor] | None = None,
        num_rejected_tokens_gpu: torch.Tensor | None = None,
        slot_mappings: dict[str, torch.Tensor] | list[dict[str, torch.Tensor]] | None = None,
    ) -> torch.Tensor:
        """Draft a block for each request; an observer sees what came out."""
        tap_starts = common_attn_metadata.query_start_loc
        draft_tokens: torch.Tensor = super().propose(
            num_speculative_tokens,
            target_token_ids,
            target_positions,
            target_hidden_states,
            next_token_ids,
            token_indices_to_sample,
            common_attn_metadata,
            sampling_metadata,
            mm_embed_inputs,
            num_rejected_tokens_gpu,
            slot_mappings,
        )
        if self.observer is not None and self.runner is not None and self._sampled_from is not None:
            logits = self.model.compute_logits(self._sampled_from)
            self._sampled_from = None
            self.observer(
                DraftStep(
                    request_ids=tuple(self.runner.input_batch.req_ids),
                    taps=target_hidden_states.clone(),
                    tap_starts=tap_starts.clone(),
                    anchors=next_token_ids.clone(),
                    draft_tokens=draft_tokens.clone(),
                    logits=logits.view(*draft_tokens.shape, -1),
                )
            )
        return draft_tokens

    def _sample_draft_tokens(
        self, hidden_states: torch.Tensor, sampling_metadata: SamplingMetadata
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.observer is not None:
            self._sampled_from = hidden_states
        sampled: tuple[torch.Tensor, torch.Tensor | None] = super()._sample_draft_tokens(
            hidden_states, sampling_metadata
        )
        return sampled


def require_servable(vllm_config: VllmConfig) -> None:
    """Check the files of the drafter that the engine was told to use, and that they fit.

    Raises:
        CheckpointError: On the first thing wrong.
    """
    speculation = vllm_config.speculative_config
    drafter = find_target_folder(speculation.model)  # a folder, or the local copy of a hub name
    if drafter is None:
        raise CheckpointError(
            f"the drafter needs a local copy, so that its tensors can be checked, got "
            f"{speculation.model}. Download it and give its folder."
        )
    doctor.require_servable(
        vllm_config.model_config.model, drafter, speculation.num_speculative_tokens
    )


def _is_folder(vllm_config: VllmConfig) -> bool:
    return Path(vllm_config.speculative_config.model).is_dir()
