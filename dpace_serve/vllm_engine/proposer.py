"""The drafter inside the engine: vLLM's DFlash proposer, with its checkpoint checked."""

from collections.abc import Sequence

import torch
from typing_extensions import override
from vllm.config import CUDAGraphMode, VllmConfig
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.spec_decode.dflash import DFlashProposer
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from dpace_serve.drafter.content import PinnedWeights
from dpace_serve.vllm_engine.draft_log import DraftLog
from dpace_serve.vllm_engine.draft_room import read_context, rows_with_room
from dpace_serve.vllm_engine.draft_step import DraftObserver, DraftStep
from dpace_serve.vllm_engine.drafter_model import follow_blocks
from dpace_serve.vllm_engine.hosted_checkpoints import (
    first_folder,
    hosted_folders,
    local_copy,
    require_comparable,
    require_complete,
)
from dpace_serve.vllm_engine.row_batch import DraftInputs, DraftRows, draft_by_slot
from dpace_serve.vllm_engine.row_binding import PLAIN, RowBinding, binding_of
from dpace_serve.vllm_engine.slot_proposer import SlotProposer, reload


class DpaceProposer(DFlashProposer):
    """Drafts with checkpoints that have exactly the tensors they should have.

    It is slot 0 itself, and hosts the drafters of the other slots. Each request is drafted for by
    the slot that it was bound to; what its shadows draft is kept and never verified. A request that
    leaves no room for a block is only read.

    Attributes:
        observer: Called with every proposal of a step that slot 0 drafts alone; none costs nothing.
        slots: The proposers of all slots; the first is this one.
        shadow_drafts: What shadows drafted for requests that still run.
        without_room: Requests of the last step that were not drafted for.
    """

    observer: DraftObserver | None = None

    def __init__(
        self, vllm_config: VllmConfig, device: torch.device, runner: GPUModelRunner | None = None
    ) -> None:
        """Check the checkpoints, then build the engine's proposer and those of the other slots.

        Args:
            vllm_config: The engine's configuration.
            device: Where it drafts.
            runner: The model runner, which alone knows the requests' names.

        Raises:
            CheckpointError: If a drafter is not complete or does not fit its target. vLLM itself
                serves one with a missing tensor without a word.
            ConfigError: If several drafters could not be compared.
        """
        others = hosted_folders(vllm_config)
        require_complete(vllm_config, [*first_folder(vllm_config), *others])
        if others:
            require_comparable(vllm_config)
        super().__init__(vllm_config, device, runner)
        self.runner = runner  # the base class does not keep it
        self._sampled_from: torch.Tensor | None = None
        self.slots: tuple[DFlashProposer, ...] = (
            self,
            *(
                SlotProposer(vllm_config, device, runner, slot=slot, folder=folder)
                for slot, folder in enumerate(others, start=1)
            ),
        )
        self.shadow_drafts = DraftLog()
        self.without_room: frozenset[str] = frozenset()

    def load_model(self, target_model: torch.nn.Module) -> None:
        """Load the drafters; one given by its hub name can be checked only after that.

        Raises:
            CheckpointError: If the drafter is not complete or does not fit its target.
        """
        super().load_model(target_model)
        if not first_folder(self.vllm_config):
            require_complete(self.vllm_config, [local_copy(self.vllm_config)])
        for slot in self.slots[1:]:
            slot.load_model(target_model)

    @override
    def initialize_attn_backend(
        self, kv_cache_config: KVCacheConfig, kernel_block_sizes: list[int] | None = None
    ) -> None:
        """Plan the attention of all slots."""
        super().initialize_attn_backend(kv_cache_config, kernel_block_sizes)
        for slot in self.slots[1:]:
            slot.initialize_attn_backend(kv_cache_config, kernel_block_sizes)

    @override
    def initialize_cudagraph_keys(self, cudagraph_mode: CUDAGraphMode) -> None:
        """Tell all slots which graphs are captured."""
        super().initialize_cudagraph_keys(cudagraph_mode)
        for slot in self.slots[1:]:
            slot.initialize_cudagraph_keys(cudagraph_mode)

    @override
    def dummy_run(
        self,
        num_tokens: int,
        use_cudagraphs: bool = True,
        is_graph_capturing: bool = False,
        slot_mappings: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Run all slots once: the engine measures their memory, compiles and captures them."""
        super().dummy_run(num_tokens, use_cudagraphs, is_graph_capturing, slot_mappings)
        for slot in self.slots[1:]:
            slot.dummy_run(num_tokens, use_cudagraphs, is_graph_capturing, slot_mappings)

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
        """Draft a block for each request, with the slot that serves it; its shadows draft too.

        Rows of requests that leave no room for a block are zeros. With length 0 all requests are
        only read: the base class would run the drafter's forward and throw its result away.
        """
        inputs = DraftInputs(
            token_ids=target_token_ids,
            positions=target_positions,
            hidden_states=target_hidden_states,
            next_token_ids=next_token_ids,
            num_rejected=num_rejected_tokens_gpu,
            attention=common_attn_metadata,
        )

        def draft(slot: int, rows: Sequence[int]) -> torch.Tensor:
            chosen = inputs.select(rows)
            follow_blocks(self.slots[slot].model, num_speculative_tokens)
            # The base class's own method: for slot 0, `propose` is this one.
            drafted: torch.Tensor = DFlashProposer.propose(
                self.slots[slot],
                num_speculative_tokens,
                chosen.token_ids,
                chosen.positions,
                chosen.hidden_states,
                chosen.next_token_ids,
                None,
                chosen.attention,
                sampling_metadata,
                mm_embed_inputs,
                chosen.num_rejected,
                slot_mappings,
            )
            return drafted

        bindings = self._bindings(inputs.num_requests)
        rows = self._rows_with_room(inputs)
        if not num_speculative_tokens:
            rows = []
        self._settle_shadows(inputs, bindings)
        served_by = [binding.serving for binding in bindings]
        draft_tokens = draft_by_slot(
            draft, served_by, rows, num_draft_tokens=num_speculative_tokens, device=self.device
        )
        self._show(inputs, rows, draft_tokens)
        self._draft_shadows(draft, bindings, rows, num_speculative_tokens)
        self._read_others(inputs, bindings, rows)
        return draft_tokens

    def reload(self, slot: int, weights: PinnedWeights) -> None:
        """Put another drafter of the same shape into a slot that no request is bound to.

        Raises:
            SwapError: If the drafter cannot be loaded.
            ValueError: If there is no such slot.
        """
        if not 0 <= slot < len(self.slots):
            raise ValueError(f"slots run from 0 to {len(self.slots) - 1}, got {slot}.")
        reload(self.slots[slot], weights)

    def _bindings(self, num_rows: int) -> list[RowBinding]:
        if self.runner is None or len(self.slots) == 1:
            return [PLAIN] * num_rows
        requests = self.runner.requests
        return [
            binding_of(requests[name].sampling_params.extra_args, num_slots=len(self.slots))
            for name in self.runner.input_batch.req_ids
        ]

    def _rows_with_room(self, inputs: DraftInputs) -> list[int]:
        rows = rows_with_room(inputs.lengths, self.speculative_config, self.max_model_len)
        if self.runner is not None:
            names = self.runner.input_batch.req_ids
            self.without_room = frozenset(names) - {names[row] for row in rows}
        return rows

    def _read_others(
        self, inputs: DraftInputs, bindings: Sequence[RowBinding], drafted: Sequence[int]
    ) -> None:
        if len(drafted) == len(bindings):
            return
        others = sorted(set(range(len(bindings))) - set(drafted))
        for slot, proposer in enumerate(self.slots):
            rows = [
                row for row in others if slot in (bindings[row].serving, *bindings[row].shadows)
            ]
            if rows:
                read_context(proposer, inputs.select(rows))
        if not drafted:
            self._last_draft_probs = None
            if self.vllm_config.parallel_config.data_parallel_size > 1:
                # Other replicas may draft now, and wait for this one to take part.
                super().dummy_run(num_tokens=1)

    def _settle_shadows(self, inputs: DraftInputs, bindings: Sequence[RowBinding]) -> None:
        if not len(self.shadow_drafts):
            return
        keys = [binding.key for binding in bindings]
        self.shadow_drafts.begin_step(keys, inputs.first_positions(), inputs.num_tokens)

    def _draft_shadows(
        self,
        draft: DraftRows,
        bindings: Sequence[RowBinding],
        drafted: Sequence[int],
        num_draft_tokens: int,
    ) -> None:
        for slot in sorted({slot for binding in bindings for slot in binding.shadows}):
            rows = [row for row in drafted if slot in bindings[row].shadows]
            if not rows:
                continue
            drafts = draft(slot, rows)
            # A row whose prompt is not read to its end has no anchor yet: the engine throws away
            # what was sampled there, and what was drafted.
            discarded = self.runner.discard_request_mask.np  # type: ignore[union-attr]  # bound rows
            kept = [index for index, row in enumerate(rows) if not discarded[row]]
            if not kept:
                continue
            anchors = self.slots[slot].positions[: len(rows) * (1 + num_draft_tokens)]
            anchors = anchors.view(len(rows), 1 + num_draft_tokens)[:, 0].clone()
            self.shadow_drafts.add(
                slot, [bindings[rows[index]].key for index in kept], anchors[kept], drafts[kept]
            )

    def _show(self, inputs: DraftInputs, rows: Sequence[int], draft_tokens: torch.Tensor) -> None:
        sampled_from, self._sampled_from = self._sampled_from, None
        if self.observer is None or self.runner is None or sampled_from is None:
            return
        if sampled_from.shape[0] != len(rows) * draft_tokens.shape[1]:
            return  # other slots drafted for some of the rows
        names = self.runner.input_batch.req_ids
        inputs, draft_tokens = inputs.select(rows), draft_tokens[list(rows)]
        logits = self.model.compute_logits(sampled_from)
        self.observer(
            DraftStep(
                request_ids=tuple(names[row] for row in rows),
                taps=inputs.hidden_states.clone(),
                tap_starts=inputs.attention.query_start_loc.clone(),
                anchors=inputs.next_token_ids.clone(),
                draft_tokens=draft_tokens.clone(),
                logits=logits.view(*draft_tokens.shape, -1),
            )
        )

    def _sample_draft_tokens(
        self, hidden_states: torch.Tensor, sampling_metadata: SamplingMetadata
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.observer is not None:
            self._sampled_from = hidden_states
        sampled: tuple[torch.Tensor, torch.Tensor | None] = super()._sample_draft_tokens(
            hidden_states, sampling_metadata
        )
        return sampled
